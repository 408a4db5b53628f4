"""An address that is not well-formed was shown in its error with the password in it."""

from __future__ import annotations

import pytest

from service_utils.http.urls import BaseURL


@pytest.mark.parametrize(
    "address",
    [
        "http://user:s3cret/s3cret@host",
        "http://user:s3cret#s3cret@host",
        "http://user:s3cret?s3cret@host",
        "http://user:s3cret℀@host",
        "http://user:s3cret://s3cret@host",
        "http://[::1:s3cret@host",
        "user:s3cret@host",
        "s3cret://s3cret@host",
        "ftp://user:s3cret@host",
        "http://user:s3cret@host:99999",
        "http://user:s3cret@host/ x",
        "http://user:s3cret@host/a/../..",
        "http://user:s3cret@host/?a=1",
        "http://host/?key=s3cret",
        "http://host/#s3cret",
        "http://host/?mail=a@b&key=s3cret",
    ],
)
def test_password_in_a_malformed_address(address: str) -> None:
    """Whatever is wrong with an address, its password and keys stay out of the error."""
    with pytest.raises(ValueError, match="base_url=") as caught:
        BaseURL.parse(address)

    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_password_in_the_repr() -> None:
    """The address prints without the password it holds."""
    base = BaseURL.parse("http://user:s3cret@host")

    assert base.userinfo == ("user", "s3cret")
    assert "s3cret" not in f"{base!r} {base} {base.url}"
