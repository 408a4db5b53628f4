"""Which hosts are ours: only they are sent the internal token unasked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.http.tokens import is_internal_host

OURS = [
    # loopback
    "127.0.0.1",
    "127.255.0.9",
    "::1",
    "[::1]",
    "::ffff:127.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "api.localhost",
    # private addresses
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "fd12:3456::1",
    "fc00::1",
    "::ffff:10.1.2.3",
    "::ffff:c0a8:0101",
    "0:0:0:0:0:0:0:1",
    # names without a dot
    "chroma",
    "Chroma-Server",
    "chroma_server",
    "web1",
    "0xg",
    # names of clusters and local networks
    "db.internal",
    "a.b.internal",
    "printer.local",
    "chroma.default.svc",
    "chroma.default.svc.cluster.local",
    "chroma.default.svc.cluster.local.",
    "Chroma.Default.SVC",
]
FOREIGN = [
    "",
    ".",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.1",
    "192.169.0.1",
    "11.0.0.1",
    "128.0.0.1",
    "169.254.169.254",  # the metadata service of clouds
    "100.64.0.1",
    "0.0.0.0",
    "::",
    "2001:db8::1",
    "fe80::1",
    "::ffff:8.8.8.8",
    "::ffff:0808:0808",
    "64:ff9b::10.0.0.1",
    "example.com",
    "api.openai.com",
    "internal.example.com",
    "local.example.com",
    "notinternal.com",
    "a.xinternal",
    "a.xlocal",
    "a.xsvc",
    "evil-internal.com",
    "localhost.evil.com",
    "svc.evil.com",
    "cluster.local.evil.com",
    "10.0.0.1.evil.com",
    "127.0.0.1.nip.io",
    # numbers that a resolver takes for addresses
    "134744072",
    "0x08080808",
    "0X08080808",
    "010002004010",
    "0",
    "0x",
    "8.8.2056",
    "0x8.0x8.0x8.0x8",
    "010.010.010.010",
    "127.1",
]


@pytest.mark.parametrize("host", OURS)
def test_ours(host: str) -> None:
    """Loopback, private addresses, names without a dot and names of clusters are internal."""
    assert is_internal_host(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign(host: str) -> None:
    """Everything else is not, and a number is an address in disguise."""
    assert not is_internal_host(host)


@pytest.mark.parametrize(
    ("declared", "host", "internal"),
    [
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.Example.COM.", True),
        ("api.example.com", "x.api.example.com", False),
        ("api.example.com", "api.example.com.evil.com", False),
        ("api.example.com", "evilapi.example.com", False),
        (".example.com", "api.example.com", True),
        (".example.com", "a.b.example.com", True),
        (".example.com", "example.com", False),
        (".example.com", "evilexample.com", False),
        ("*.example.com", "api.example.com", True),
        (" a.com , B.com. ,", "b.com", True),
        ("a.com,b.com", "c.com", False),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.70", False),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("134744072", "134744072", True),
        ("", "example.com", False),
        (",", "example.com", False),
        ("*", "example.com", False),
        (".", "example.com", False),
        ("*.", "example.com", False),
        ("*,a.com", "example.com", False),
    ],
)
def test_declared(monkeypatch: pytest.MonkeyPatch, declared: str, host: str, internal: bool) -> None:
    """INTERNAL_TOKEN_HOSTS declares further hosts by name; a leading dot stands for all below it."""
    monkeypatch.setenv("INTERNAL_TOKEN_HOSTS", declared)
    assert is_internal_host(host) is internal


def test_declared_hosts_are_read_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable may change while the process runs."""
    monkeypatch.setenv("INTERNAL_TOKEN_HOSTS", "a.com")
    assert is_internal_host("a.com")
    monkeypatch.delenv("INTERNAL_TOKEN_HOSTS")
    assert not is_internal_host("a.com")


def test_declaring_hosts_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Internal hosts stay internal whatever else is declared."""
    monkeypatch.setenv("INTERNAL_TOKEN_HOSTS", "a.com")
    assert is_internal_host("localhost")


@given(st.text())
def test_any_text(host: str) -> None:
    """Whatever is asked about, the answer is yes or no."""
    assert is_internal_host(host) in (True, False)


@given(st.integers(0, 2**32 - 1))
def test_numbers_are_never_ours(number: int) -> None:
    """No number without dots is internal, in whatever base: it may be any address of the world."""
    for host in (str(number), hex(number), f"0{number:o}"):
        assert not is_internal_host(host)
