"""Request bodies over several attempts, and response bodies within bounds."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import requests

from service_utils.clock import SYSTEM
from service_utils.errors import ResponseTooLarge

__all__ = ["CallerBody", "CallerCode", "read_body", "read_quietly", "replayable_bytes"]

_CHUNK = 65536
_LENGTH = re.compile(r"[0-9]{1,18}")  # int() refuses thousands of digits


class CallerCode:
    """Tells an exception of the caller's own code from one of the network.

    Functions and bodies that the caller hands in run deep inside ``requests``, which may dress their
    exceptions up as connection failures. Wrapped by this object they leave their exception here on its way
    out.
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def wrap(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its exceptions noted."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except BaseException as error:
                self.error = error
                raise

        return noted

    def wrap_hook(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a response hook, which must not leave a response behind that nobody can close."""
        return _NotedHook(hook, self.wrap(hook))


class _NotedHook:
    """A response hook of the caller. Into pickles of the requests that hold it goes the hook alone."""

    __slots__ = ("_hook", "_noted")

    def __init__(self, hook: Callable[..., Any], noted: Callable[..., Any]) -> None:
        self._hook = hook
        self._noted = noted

    def __call__(self, response: requests.Response, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._noted(response, *args, **kwargs)
        except requests.HTTPError:
            raise  # raise_for_status: the caller may want to see why
        except BaseException:
            response.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._hook,)


def _itself(hook: Callable[..., Any]) -> Callable[..., Any]:
    return hook


def read_quietly(response: requests.Response, limit: int, service: str, moment: float | None) -> None:
    """:func:`read_body` for an error answer that a hook has raised; without a body if it cannot be had."""
    try:
        read_body(response, limit, service, moment)
    except (requests.RequestException, RuntimeError):
        response.close()


class CallerBody:
    """A streamed request body of the caller: a generator, an iterable or a file.

    Args:
        body: What the caller gave.
        code: Where its exceptions are noted.
    """

    def __init__(self, body: Any, code: CallerCode) -> None:
        self._body = body
        self._code = code
        self._start = _position(body)
        if hasattr(body, "read"):
            self.read = code.wrap(self._read)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._body
        except GeneratorExit:
            raise
        except BaseException as error:
            self._code.error = error
            raise

    def _read(self, *args: Any) -> Any:
        data = self._body.read(*args)
        # urllib3 encodes what it knows to be a text file; behind this object it cannot know.
        return data.encode() if isinstance(data, str) else data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._body, name)

    def rewind(self) -> bool:
        """Go back to where the body began. Returns whether it can be sent once more."""
        if self._start is None:
            return False
        try:
            self._body.seek(self._start)
        except (OSError, ValueError):
            return False
        return True

    def replayable(self) -> bool:
        """Whether :meth:`rewind` may succeed."""
        return self._start is not None


def _position(body: Any) -> int | None:
    try:
        return int(body.tell()) if body.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None


def replayable_bytes(body: Any, limit: int) -> bytes | None:
    """The body as bytes, if it is there to be had without disturbing its owner; None otherwise.

    Args:
        body: The body of a prepared request.
        limit: A file longer than so many bytes is not read.
    """
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    if isinstance(body, CallerBody) and body.rewind():
        try:
            data = body.read(limit + 1)
        except (OSError, ValueError, io.UnsupportedOperation):
            return None
        return data if len(data) <= limit else None
    return None


def read_body(response: requests.Response, limit: int, service: str, moment: float | None) -> None:
    """Read a response's whole body into it, as ``requests`` does for calls that do not stream.

    Args:
        response: Its head has arrived.
        limit: Bytes after decoding.
        service: Display name, for errors.
        moment: When it must have been read, in seconds of the machine's monotonic clock; looked at between
            two pieces, since decoding them takes time as well.

    Raises:
        ResponseTooLarge: The body is longer than ``limit``. The connection is closed, not used again.
        requests.RequestException: As ``Response.content``.
        requests.Timeout: The moment came while the body did.
    """
    inside: Any = response
    if inside._content is not False or response.raw is None:
        _check_length(response, len(response.content or b""), limit, service)
        return
    _check_length(response, _announced(response), limit, service)
    pieces: list[bytes] = []
    length = 0
    for piece in _pieces(response):
        pieces.append(piece)
        length += len(piece)
        _check_length(response, length, limit, service)
        if moment is not None and SYSTEM.monotonic() >= moment:
            response.close()
            raise requests.ReadTimeout("the body did not arrive in time", request=response.request)
    inside._content = b"".join(pieces)
    inside._content_consumed = True


def _announced(response: requests.Response) -> int:
    """Bytes of the body as its head says, where they are what they will be; else 0."""
    length = response.headers.get("Content-Length", "")
    bodiless = response.request.method == "HEAD" or response.status_code in (204, 304)
    if bodiless or "Content-Encoding" in response.headers or not _LENGTH.fullmatch(length):
        return 0
    return int(length)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body, piece by piece; what is no body raises what ``requests`` raises for one that is broken."""
    try:
        yield from response.iter_content(_CHUNK)
    except requests.RequestException:
        raise
    except ValueError as error:  # a chunk of negative length
        raise requests.exceptions.ChunkedEncodingError(error, request=response.request) from error


def _check_length(response: requests.Response, length: int, limit: int, service: str) -> None:
    if length > limit:
        response.close()
        message = f"{service}: the answer is longer than max_response_bytes={limit}"
        raise ResponseTooLarge(message, service=service, limit=limit)
