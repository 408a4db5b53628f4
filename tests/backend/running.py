"""The local services in threads of the test process, which can be stopped, started again and made to fail."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

HOST = "127.0.0.1"


class Fault(StrEnum):
    """How a service fails."""

    ERROR = "error"
    """It answers 500 and does nothing."""
    SILENT = "silent"
    """It does nothing and keeps the caller waiting."""
    LOST = "lost"
    """It does its work, and the connection breaks before the answer."""
    REFUSED = "refused"
    """It answers 400 and does nothing."""
    NONSENSE = "nonsense"
    """It answers 200 with something that is no JSON."""


class RunningService:
    """A Flask app behind real sockets at one port for its whole life.

    Args:
        app: The app.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self._released = threading.Event()
        self._server: BaseWSGIServer | None = None
        self._serving: threading.Thread | None = None
        # Bound, never listening: while the service is stopped, nobody else gets its port.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((HOST, 0))
        self.port: int = self._reserved.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        """Where it is, or was."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Listen (again)."""
        self._released.clear()
        self._server = make_server(HOST, self.port, self._answer, threaded=True)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        # The polls end at once on shutdown instead of after half a second.
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._serving.start()

    def stop(self) -> None:
        """Stop listening; callers who are kept waiting are let go."""
        self._released.set()
        if self._server is not None and self._serving is not None:
            self._server.shutdown()
            # The thread closes the listening socket as the last thing it does: until then the port is taken.
            self._serving.join(10)
            if self._serving.is_alive():
                raise TimeoutError(f"the server at port {self.port} did not stop within 10 seconds")
            self._server = self._serving = None

    def fail(self, path: str = "", fault: Fault = Fault.ERROR) -> None:
        """Fail at every path that begins so, until :meth:`heal`."""
        self.faults[path] = fault

    def heal(self) -> None:
        """Fail no more."""
        self.faults.clear()
        self._released.set()

    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [path for _, path in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self._reserved.close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.requests.append((environ["REQUEST_METHOD"], path))
        fault = next((fault for prefix, fault in self.faults.items() if path.startswith(prefix)), None)
        if fault is None:
            return self.app(environ, start_response)
        if fault is Fault.LOST:
            list(self.app(environ, lambda *_: None))
            return _hang_up(environ)
        if fault is Fault.SILENT:
            self._released.wait(30)
            return _hang_up(environ)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status = {Fault.ERROR: "500 Oops", Fault.REFUSED: "400 No", Fault.NONSENSE: "200 OK"}[fault]
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"oops"]


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("the test hangs up")


@dataclass
class Services:
    """The four services, running."""

    chroma: RunningService
    filesystem: RunningService
    billing: RunningService
    git: RunningService

    def settings(self) -> dict[str, Any]:
        """What the backend needs to know to find them."""
        return {f"{name.upper()}_SERVER_URL": service.url for name, service in vars(self).items()}
