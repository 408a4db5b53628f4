"""Some foreign hosts in unusual spelling counted as internal, and would have been shown our token."""

from __future__ import annotations

import pytest

from service_utils.http.tokens import StaticToken, is_internal_host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1%25.evil.example",  # a name, not an address with a zone
        "10.0.0.1%evil.example",
        "evil。example",  # an ideographic full stop, which is a dot to whoever normalises it
        "１３４７４４０７２",  # full-width digits: 8.8.8.8 as one number
        "ev%69l",
        "..",
    ],
)
def test_foreign_host_in_disguise(host: str) -> None:
    """A host that only looks like ours in this spelling is not ours."""
    assert not is_internal_host(host)


@pytest.mark.parametrize("host", ["::1%lo", "fd00::1%eth0", "[fd00::1%25eth0]"])
def test_address_with_a_zone(host: str) -> None:
    """An IPv6 address keeps its meaning with the interface behind it."""
    assert is_internal_host(host)


def test_declared_address_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address may be declared as it stands in a URL."""
    monkeypatch.setenv("INTERNAL_TOKEN_HOSTS", "[2001:db8::1]")
    assert is_internal_host("2001:db8::1")


@pytest.mark.parametrize("header", ["", "X Token", "X-Token:", "X-Tokén", "a\r\nb"])
def test_header_name_that_cannot_be_sent(header: str) -> None:
    """A header that no request could carry is refused at once, and named."""
    with pytest.raises(ValueError, match="header="):
        StaticToken("s3cret", header=header)
