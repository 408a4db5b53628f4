"""Base URLs: what is taken for the address of a service, and what belongs to it."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils.http.urls import BaseURL, origin_of


def sent(url: str) -> str:
    """The URL as requests sends it."""
    return str(requests.Request("GET", url).prepare().url)


def test_parse() -> None:
    """A base URL comes apart into address, host, origin and credentials."""
    base = BaseURL.parse("HTTP://us%40er:p%3Aw@Host.Example:8080/api/")
    assert base.url.lower() == "http://host.example:8080/api"
    assert (base.host, base.origin) == ("host.example", ("http", "host.example", 8080))
    assert base.userinfo == ("us@er", "p:w")
    assert BaseURL.parse("http://h").userinfo is None
    assert BaseURL.parse("http://user@h").userinfo == ("user", "")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://h", ("http", "h", 80)),
        ("https://h/x", ("https", "h", 443)),
        ("HTTP://H:8080", ("http", "h", 8080)),
        ("http://h:", ("http", "h", 80)),
        ("http://[2001:DB8::1]/", ("http", "2001:db8::1", 80)),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int]) -> None:
    """The origin is scheme, host and port, with the default port filled in."""
    assert origin_of(url) == origin
    assert BaseURL.parse(url).origin == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "h:8080",
        "/api",
        "//h",
        "ftp://h",
        "http:h",
        "http:/h",
        "http://",
        "http:///x",
        "http://:80",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://h:-1",
        "http://[::1",
        "http://h?a=1",
        "http://h/?",
        "http://h#x",
        "http://h/#",
        "http://h/a b",
        " http://h",
        "http://h\n",
        "http://h\t/x",
        "http://h\\x",
        "http://h/..",
        "http://h/a/../../b",
        "http://h/%2e%2e/b",
    ],
)
def test_bad_base_urls(url: str) -> None:
    """What is no plain address of a service is refused and named."""
    with pytest.raises(ValueError, match="base_url="):
        BaseURL.parse(url)


@pytest.mark.parametrize("url", [None, 5, b"http://h", ["http://h"]])
def test_base_urls_that_are_none(url: Any) -> None:
    """A base URL is a string."""
    with pytest.raises(TypeError, match="base_url="):
        BaseURL.parse(url)


@given(st.text() | st.text().map("http://".__add__))
def test_any_base_url(url: str) -> None:
    """Whatever is given as base URL, it is refused by name or can be called."""
    try:
        base = BaseURL.parse(url)
    except ValueError as error:
        assert str(error).startswith("base_url=")  # noqa: PT017
        return
    assert base.contains(sent(base.join("/x")))


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("http://h/elsewhere", True),
        ("HTTP://H:80/", True),
        ("http://u:p@h/", True),
        ("https://h/", False),
        ("https://h:80/", False),
        ("http://h:8080/", False),
        ("http://h.evil.example/", False),
        ("http://evil.example/h", False),
        ("http://evil.example@h.evil.example/", False),
        ("http://h@evil.example/", False),
        ("//h/", False),
        ("/x", False),
        ("", False),
        ("http://h:x/", False),
        ("http://[::1/", False),
        ("http://evil.example\\@h/", False),
        ("http://evil.example\n@h/", False),
        ("http://h/a b", False),
    ],
)
def test_contains(url: str, inside: bool) -> None:
    """A redirect is followed only where scheme, host and port are the same for whoever reads its address."""
    assert BaseURL.parse("http://h/api").contains(url) is inside
