"""What the plain calls of one method and path have in common: method, label, URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from service_utils.http.urls import BaseURL, label_of, places_of, segment

__all__ = ["PLAIN_QUERY", "Prepared", "prepare", "require_plain"]

# Of these requests changes no letter: a query, a path without dot segments, names and values in params.
PLAIN_QUERY = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/?-]+")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,;=:@-][A-Za-z0-9_.~!$&'()*+,;=:@-]*)+")
_PLAIN_PARAM = re.compile(r"[A-Za-z0-9_.~-]*")


def require_plain(plain: bool) -> None:
    """Leave what is not plain to the ordinary way.

    Raises:
        ValueError: It is not.
    """
    if not plain:
        raise ValueError("not plain")


@dataclass(slots=True)
class Prepared:
    """What the plain calls of one method and path have in common. It holds nothing of any one call.

    Attributes:
        method: Upper case.
        label: For logs and metrics.
        url: All of it; of a template, what stands before the first place.
        places: The name of each place, and the text behind it.
    """

    method: str
    label: str
    url: str
    places: tuple[tuple[str, str], ...]

    def url_with(self, params: Mapping[str, object] | None, query: str, more: Any) -> str:
        """The URL of one call.

        Args:
            params: Values for the places.
            query: The query that stands in the path.
            more: ``params=`` of the call.

        Raises:
            LookupError: A value is missing.
            TypeError: A value is of a wrong kind.
            ValueError: A value cannot be sent, or is not plain.
        """
        url = self.url
        if params is not None:
            if len(params) != len({name for name, _ in self.places}):
                raise ValueError("as many values as places")
            filled = "".join([segment(name, params[name]) + text for name, text in self.places])
            if ".." in filled:
                raise ValueError("it may climb")
            url += filled
        if more is not None:
            require_plain(type(more) is dict)
            encoded = _encoded(more)
            query = f"{query}&{encoded}" if query and encoded else query or encoded
        return f"{url}?{query}" if query else url


def _encoded(params: dict[Any, Any]) -> str:
    """What requests makes of ``params=``: of letters and numbers, which most consist of, just that."""
    texts = [str(value) if type(value) is int else value for value in params.values()]
    for text in (*params, *texts):
        if type(text) is not str or not _PLAIN_PARAM.fullmatch(text):
            stock: Any = requests.PreparedRequest
            return str(stock._encode_params(params))
    return "&".join([f"{name}={text}" for name, text in zip(params, texts, strict=True)])


def prepare(base: BaseURL, method: str, path: str, template: bool) -> Prepared:
    """Have ``requests`` prepare a path.

    Raises:
        ValueError: It cannot be sent, or is not plain.
    """
    require_plain(type(method) is str and method.isascii() and method.isalpha())
    require_plain(type(path) is str and "#" not in path and "?" not in path)
    if not template and _PLAIN_PATH.fullmatch(path):
        return Prepared(method.upper(), path, base.url + path, ())
    texts = places_of(path) if template else [path]
    tried = "x".join(texts[::2])  # as it would be with a letter in each place
    url = base.join(tried)
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    sent = str(request.url)
    require_plain(base.contains(sent))
    if template:
        # Where nothing changes round letters, nothing changes round segments that are quoted already.
        require_plain(path.startswith("/") and sent == base.url + tried)
        sent = base.url + texts[0]
    return Prepared(method.upper(), label_of(path), sent, tuple(zip(texts[1::2], texts[2::2], strict=True)))
