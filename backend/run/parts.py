"""The five parts that make the product on one machine, and where each of them listens."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from urllib.parse import SplitResult, urlsplit

from backend.config import SERVICES, ServiceDefaults

__all__ = [
    "BACKEND",
    "HOST",
    "NAMES",
    "Part",
    "PortError",
    "check_ports",
    "find_part",
    "free_ports",
    "local_parts",
]

BACKEND = "backend"
HOST = "127.0.0.1"
NAMES = (BACKEND, *(service.name for service in SERVICES))

_BACKEND_PORT = 5000
_FREE_PORTS = range(15_000, 30_000)
_OURS = frozenset({HOST, "localhost"})


class PortError(Exception):
    """A part cannot listen where it should; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process to be.

    Attributes:
        name: ``backend``, ``chroma``…
        port: Where it listens, on 127.0.0.1.
        setting: The variable that says so.
    """

    name: str
    port: int
    setting: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"


def local_parts(environ: Mapping[str, str]) -> list[Part]:
    """What is to run here: the services whose URL points to this machine, then the backend.

    Raises:
        PortError: A setting is no port or no URL.
    """
    services = [service for service in SERVICES if _is_ours(service, environ)]
    return [*(_service_part(service, environ) for service in services), _backend_part(environ)]


def find_part(name: str, environ: Mapping[str, str]) -> Part:
    """One part by its name, wherever its URL points: its port is taken from there.

    Raises:
        PortError: A setting is no port or no URL.
        KeyError: There is no such part.
    """
    if name == BACKEND:
        return _backend_part(environ)
    return _service_part({service.name: service for service in SERVICES}[name], environ)


def check_ports(parts: Sequence[Part]) -> None:
    """Make sure that every part has a port of its own that nobody listens on.

    Raises:
        PortError: One has not.
    """
    taken: dict[int, Part] = {}
    for part in parts:
        other = taken.setdefault(part.port, part)
        if other is not part:
            raise PortError(
                f"port {part.port} is given to both {other.name} and {part.name}: "
                f"change {other.setting} or {part.setting}"
            )
        obstacle = _obstacle(part.port)
        if obstacle is not None:
            raise PortError(
                f"port {part.port} {obstacle}: {part.name} cannot listen there (see {part.setting})"
            )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment.

    They are below those that systems give to outgoing connections, so that nobody takes the port of a part
    while it is away.
    """
    candidates = random.sample(_FREE_PORTS, len(_FREE_PORTS))
    return list(islice((port for port in candidates if _obstacle(port) is None), count))


def _backend_part(environ: Mapping[str, str]) -> Part:
    text = environ.get("BACKEND_PORT") or str(_BACKEND_PORT)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise PortError(f"BACKEND_PORT={text!r}: must be a port, 1 to 65535")
    return Part(BACKEND, int(text), "BACKEND_PORT")


def _service_part(service: ServiceDefaults, environ: Mapping[str, str]) -> Part:
    setting = f"{service.prefix}_SERVER_URL"
    _, port = _parsed_url(service, environ)
    return Part(service.name, port or service.port, setting)


def _is_ours(service: ServiceDefaults, environ: Mapping[str, str]) -> bool:
    """Whether a part of a run would be found at the service's URL."""
    url, port = _parsed_url(service, environ)
    return url.scheme == "http" and url.hostname in _OURS and bool(port) and url.path in ("", "/")


def _parsed_url(service: ServiceDefaults, environ: Mapping[str, str]) -> tuple[SplitResult, int | None]:
    setting = f"{service.prefix}_SERVER_URL"
    text = environ.get(setting) or service.default_url
    try:
        url = urlsplit(text)
    except ValueError:
        raise PortError(f"{setting}={text!r}: is no URL") from None
    try:
        return url, url.port
    except ValueError:
        raise PortError(f"{setting}={text!r}: has no usable port") from None


def _obstacle(port: int) -> str | None:
    """Why nobody can listen on a port, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections of an earlier run that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            return "is in use" if in_use else f"cannot be had ({error.strerror})"
    return None
