"""What all local services share: the guarded Flask app, request models, and a server that stops cleanly."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar, cast

from flask import Flask, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, ValidationError
from waitress.server import create_server

from service_utils.integrations.flask.problems import problem, register_problem_handlers
from service_utils.integrations.flask.tokens import check_internal_token

__all__ = [
    "DEFAULT_MAX_BODY",
    "Refusal",
    "RequestModel",
    "Server",
    "data_dir",
    "make_service_app",
    "open_server",
    "parse",
    "parse_query",
    "projects_dir",
    "serve",
    "service_parser",
]

logger = logging.getLogger(__name__)

DEFAULT_MAX_BODY = 16 * 2**20
"""Largest request body in bytes, unless a service says otherwise."""

_OPEN_ENDPOINTS = frozenset({"health", "ready"})
_MOST_ERRORS_LISTED = 20

Model = TypeVar("Model", bound=BaseModel)


class Server(Protocol):
    """What is used of a waitress server."""

    def run(self) -> None:
        """Serve until SystemExit is raised in this thread, then finish what is running and return."""
        ...

    def close(self) -> None:
        """Give the address back."""
        ...


class RequestModel(BaseModel):
    """Base of every request body: no silent conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Refusal(Exception):
    """A request the service turns down; raised anywhere in a view, it becomes the problem JSON answer.

    Attributes:
        status: The HTTP status.
        field: The field of the request that is at fault, or None.
        headers: Headers of the answer, for example ``Retry-After``.
        members: Further members of the problem object.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.field = field
        self.headers = headers
        self.members = members if field is None else {"field": field, **members}

    def answer(self) -> Response:
        """The problem JSON response."""
        return problem(self.status, detail=str(self), headers=self.headers, **self.members)


def make_service_app(name: str, *, ready: Callable[[], None], max_body: int = DEFAULT_MAX_BODY) -> Flask:
    """A Flask app with ``/health`` and ``/ready``, the internal token before all else, and problem JSON errors.

    Args:
        name: The service's short name, as in its address setting: ``chroma``, ``filesystem``…
        ready: Called by ``GET /ready``; whatever it raises is logged and answered with 503.
        max_body: Largest request body in bytes; a larger one is answered with 413.

    Raises:
        ValueError: ``max_body`` is not positive.
    """
    if max_body <= 0:
        raise ValueError(f"max_body must be positive, got {max_body!r}")
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body
    app.url_map.strict_slashes = False
    register_problem_handlers(app)
    app.register_error_handler(Refusal, Refusal.answer)
    app.before_request(_require_token)
    app.add_url_rule("/health", "health", lambda: jsonify(status="ok", service=name))
    app.add_url_rule("/ready", "ready", lambda: _readiness(name, ready))
    return app


def _require_token() -> Response | None:
    return None if request.endpoint in _OPEN_ENDPOINTS else check_internal_token()


def _readiness(name: str, ready: Callable[[], None]) -> Response:
    try:
        ready()
    except Exception:
        # The cause can name paths and hosts: it belongs in the log, this route is open to everybody.
        logger.exception("%s is not ready", name)
        return problem(503, detail=f"{name} is not ready; its log says why")
    return jsonify(status="ready", service=name)


def parse(model: type[Model]) -> Model:
    """The request's JSON body as ``model``.

    Raises:
        Refusal: 400 for a body that is no JSON, not declared as JSON, or does not fit; it names the field.
        werkzeug.exceptions.RequestEntityTooLarge: The body is over the app's limit (413).
    """
    body = request.get_data(cache=False)
    if not request.is_json:
        raise Refusal(400, "the body must be JSON, with Content-Type application/json", field="body")
    return _validated(lambda: model.model_validate_json(body))


def parse_query(model: type[Model]) -> Model:
    """The query string as ``model``; its texts are converted, since a query string has no numbers.

    Raises:
        Refusal: 400 naming the field that is missing, repeated, unknown or wrong.
    """
    for key, values in request.args.lists():
        if len(values) > 1:
            raise Refusal(400, f"{key}: given {len(values)} times", field=key)
    given = request.args.to_dict()
    return _validated(lambda: model.model_validate_strings(given, strict=False))


def _validated(validate: Callable[[], Model]) -> Model:
    try:
        return validate()
    except ValidationError as error:
        # The offending values stay out: they can be large, and they are the user's own text.
        found = error.errors(include_url=False, include_input=False, include_context=False)
    errors = [
        {"field": ".".join(map(str, one["loc"])) or "body", "message": one["msg"]}
        for one in found[:_MOST_ERRORS_LISTED]
    ]
    first = errors[0]
    raise Refusal(400, f"{first['field']}: {first['message']}", field=first["field"], errors=errors)


def data_dir(service: str) -> Path:
    """Where a service keeps its data: ``$VAR_DIR/<service>``, ``./var/<service>`` without the variable."""
    return Path(os.environ.get("VAR_DIR") or "var") / service


def projects_dir() -> Path:
    """The folder of all projects' files, which the filesystem service writes and the git service reads.

    ``$PROJECTS_DIR``, else ``projects`` in the filesystem service's data folder.
    """
    given = os.environ.get("PROJECTS_DIR")
    return Path(given) if given else data_dir("filesystem") / "projects"


def service_parser(name: str, port: int) -> argparse.ArgumentParser:
    """The command line all services understand: ``--host --port --data --threads``."""
    parser = argparse.ArgumentParser(prog=f"python -m backend.services.{name}")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=port, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=data_dir(name), help="data folder (default: %(default)s)"
    )
    parser.add_argument("--threads", type=_positive, default=8, help="worker threads (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, got {text}")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text}")
    return number


def serve(app: Flask, *, host: str = "127.0.0.1", port: int, name: str, threads: int = 8) -> None:
    """Serve ``app`` until SIGTERM or SIGINT; requests being answered are finished (at most 5 s).

    Prints ``<name> listening on http://<host>:<port>`` once connections are accepted; port 0 picks a free one.

    Raises:
        SystemExit: With code 1 and one line on stderr when the address cannot be bound.
    """
    server, bound_port = _server_or_exit(app, host, port, name, threads)
    with _stopped_by_signals():
        print(f"{name} listening on {_address(host, bound_port)}", flush=True)
        server.run()
    server.close()


def open_server(
    app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 8
) -> tuple[Server, int]:
    """A waitress server bound to the address but not running yet, and its port.

    Raises:
        OSError: The address cannot be bound.
        ValueError: The host has no address.
    """
    limit = app.config["MAX_CONTENT_LENGTH"]
    # Flask's own limit answers with problem JSON; waitress' coarser one only keeps floods off the disk.
    bounds = {} if limit is None else {"max_request_body_size": 4 * limit}
    server: Any = create_server(app, host=host, port=port, threads=threads, ident=None, **bounds)
    # A name with several addresses (localhost: IPv4 and IPv6) makes a server of several sockets.
    several: list[tuple[str, int | str]] = getattr(server, "effective_listen", [])
    return cast(Server, server), int(several[0][1] if several else server.effective_port)


def _server_or_exit(app: Flask, host: str, port: int, name: str, threads: int) -> tuple[Server, int]:
    try:
        return open_server(app, host=host, port=port, threads=threads)
    except (OSError, ValueError) as error:
        _exit_unbound(_address(host, port), name, error)


def _exit_unbound(address: str, name: str, error: OSError | ValueError) -> NoReturn:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        cause = "the port is in use"
    else:
        cause = getattr(error, "strerror", None) or str(error)
    print(f"{name} cannot listen on {address}: {cause}", file=sys.stderr)
    raise SystemExit(1) from error


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Make both signals end ``server.run()``, which takes SystemExit as the word to finish and return."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only; whoever started this one stops it
        return
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
