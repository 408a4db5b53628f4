"""Where a call goes: a base URL, the paths below it, and nothing beyond its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

import requests

__all__ = ["BaseURL", "Origin", "fill_path", "label_of", "origin_of", "places_of", "segment"]

Origin = tuple[str, str, int]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNQUOTED = re.compile(r"[A-Za-z0-9_~-]+")
_ENCODED_DOT = re.compile(r"%2e", re.IGNORECASE)
# What parts segments: that depends on who reads the path, and a client cannot know who will.
_SEPARATORS = tuple(
    re.compile(form, re.IGNORECASE) for form in (r"/", r"/|%2f", r"/|\\|%5c", r"/|\\|%2f|%5c")
)


def origin_of(url: str) -> Origin:
    """Scheme, host and port of a URL, lower-cased and with the default port filled in.

    Raises:
        ValueError: The port is no number.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(scheme, 0)


@dataclass(frozen=True, slots=True)
class BaseURL:
    """The address of a service, its credentials set aside.

    Attributes:
        url: Without user, password and trailing slash.
        host: Host name or address, lower case.
        origin: Scheme, host and port.
        userinfo: ``(user, password)`` out of the URL, or None. Never shown.
    """

    url: str
    host: str
    origin: Origin
    userinfo: tuple[str, str] | None = field(repr=False)

    @classmethod
    def parse(cls, base_url: str, *, what: str = "base_url") -> BaseURL:
        """Check and take apart a base URL.

        Args:
            base_url: The URL.
            what: The argument or variable it comes from, for the errors.

        Raises:
            TypeError: It is no string.
            ValueError: It is no plain http(s) address of a service; the message never shows a password.
        """
        if not isinstance(base_url, str):
            raise TypeError(f"{what}={base_url!r}: must be a string")
        shown = f"{what}={_shown(base_url)!r}"
        if _CONTROL.search(base_url) or "\\" in base_url:
            raise ValueError(f"{shown}: must not contain spaces, control characters or backslashes")
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError:  # its text may hold the password
            raise ValueError(f"{shown}: is no well-formed URL with a port up to 65535") from None
        if parts.scheme.lower() not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{shown}: must look like http://host:port or https://host:port/path")
        if parts.query or parts.fragment or base_url.endswith(("?", "#")):
            raise ValueError(f"{shown}: must have no query and no fragment")
        if port == 0:
            raise ValueError(f"{shown}: port 0 is no address")
        _refuse_climbing(what, parts.path)
        url = _as_sent(_without_userinfo(base_url), shown)
        userinfo = None
        if parts.username is not None or parts.password is not None:
            userinfo = unquote(parts.username or ""), unquote(parts.password or "")
        origin = origin_of(url)
        return cls(url, origin[1], origin, userinfo)

    def join(self, path: str, *, what: str = "path") -> str:
        """The URL of a path below this address, with one slash between the two.

        Args:
            path: Path and query; the path may lack its slash.
            what: What errors call it.

        Raises:
            TypeError: The path is no string.
            ValueError: It is a URL of its own, holds control characters, or climbs out of the base path.
        """
        if not isinstance(path, str):
            raise TypeError(f"{what}={path!r}: must be a string")
        if _CONTROL.search(path.replace(" ", "")):
            raise ValueError(f"{what}={_shown(path)!r}: must not contain control characters")
        if _is_absolute(path):
            raise ValueError(
                f"{what}={_shown(path)!r}: must be a path below {self.url}, not an address of its own"
            )
        _refuse_climbing(what, path.partition("#")[0].partition("?")[0])
        if not path or path.startswith(("?", "#")):
            return self.url + "/" + path if self.url.count("/") == 2 else self.url + path
        return self.url + path if path.startswith("/") else f"{self.url}/{path}"

    def contains(self, url: str) -> bool:
        """Whether a URL has this address's origin, whoever reads it."""
        if _CONTROL.search(url) or "\\" in url:
            return False  # readers of URLs disagree about where the host of such a one is
        try:
            return origin_of(url) == self.origin
        except ValueError:
            return False


def _as_sent(url: str, shown: str) -> str:
    """The URL in the spelling of what is sent: international names and letters encoded, dot segments gone."""
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(url, None)
    except ValueError:
        raise ValueError(f"{shown}: is no URL that can be sent") from None
    return str(prepared.url).rstrip("/")


def label_of(path: object) -> str:
    """A path for logs and metrics: without its query; of what is no path, nothing but a slash."""
    text = str(path)
    if _is_absolute(text) or _CONTROL.search(text.replace(" ", "")):
        return "/"
    return "/" + text.partition("?")[0].partition("#")[0].lstrip("/")


def _is_absolute(path: str) -> bool:
    return bool(_SCHEME.match(path)) or path.startswith(("//", "\\", "/\\"))


def fill_path(template: str, params: Mapping[str, object]) -> str:
    """Put values into the ``{name}`` places of a path, each quoted as one segment.

    Raises:
        TypeError: A value is neither text nor a number.
        ValueError: A place has no value, a value has no place, or a value cannot be one segment.
    """
    names = set(_PARAMETER.findall(template))
    if missing := names - params.keys():
        raise ValueError(f"path_params: {template!r} needs a value for {', '.join(sorted(missing))}")
    if unknown := params.keys() - names:
        raise ValueError(f"path_params: {template!r} has no place for {', '.join(sorted(map(str, unknown)))}")
    return _PARAMETER.sub(lambda place: segment(place[1], params[place[1]]), template)


def places_of(template: str) -> list[str]:
    """A path taken apart at its ``{name}`` places: text, name, text, name … text."""
    return _PARAMETER.split(template)


def segment(name: str, value: object) -> str:
    """A value quoted as one segment of a path.

    Raises:
        TypeError: It is neither text nor a number.
        ValueError: It cannot be a segment.
    """
    if type(value) is str and _UNQUOTED.fullmatch(value):
        return value
    if value is None or isinstance(value, bool | bytes | bytearray | list | tuple | set | dict):
        raise TypeError(f"path_params: {name}={value!r}: must be a string or a number")
    text = str(value)
    unquoted = (text.split("/"), text.replace("\\", "/").split("/"))  # as some servers see it
    if text in ("", ".") or any(map(_climbs, unquoted)):
        raise ValueError(f"path_params: {name}={text!r}: cannot be a path segment")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ValueError(f"path_params: {name}={text!r}: holds characters that are none") from None


def _refuse_climbing(what: str, path: str) -> None:
    """Refuse dot segments that lead above the start, also in the disguises a server may undo."""
    plain = _ENCODED_DOT.sub(".", path)
    if ".." in plain and any(_climbs(form.split(plain)) for form in _SEPARATORS):
        raise ValueError(f"{what}={path!r}: must not climb out of the base path")


def _climbs(segments: list[str]) -> bool:
    depth = 0
    for segment in segments:
        name = segment.partition(";")[0]  # some servers cut parameters off a segment before they look at it
        if name == "..":
            depth -= 1
        elif name not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


def _without_userinfo(url: str) -> str:
    """A well-formed URL without user and password."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _shown(url: str) -> str:
    """A URL that may not be well-formed, for an error: without whatever could be a password or a key."""
    scheme = _HTTP.match(url)
    start = scheme[0] if scheme else ""
    before, mark, after = url[len(start) :].rpartition("@")
    if _QUERY.search(before):
        return f"{start}***"
    return f"{start}{'***' if mark else ''}{mark}{_QUERY.sub('?***', after)}"
