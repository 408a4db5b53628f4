"""All parts in the foreground: what ``make run`` shows."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from backend.run.parts import BACKEND, NAMES, Part, PortError, check_ports, find_part, local_parts
from backend.run.supervisor import StartError, Supervisor
from backend.run.token import RunError, admin_token_file, run_token

__all__ = ["run_everything"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WIDTH = max(map(len, NAMES))


def run_everything(*, production: bool = False) -> int:
    """Run all parts until Ctrl-C, the backend under gunicorn if that is wanted.

    Returns:
        The exit code: 1 when they cannot start or have all died.
    """
    environ = dict(os.environ)
    try:
        parts = local_parts(environ)
        check_ports(parts)
        with _stop_event() as stop, run_token(environ) as token:
            return _run(parts, {**environ, **token}, stop, production=production)
    except (PortError, RunError, StartError) as error:
        _say(str(error), sys.stderr)
    except OSError as error:
        _say(f"cannot start with VAR_DIR={environ.get('VAR_DIR') or 'var'}: {error}", sys.stderr)
    return 1


def _run(
    parts: Sequence[Part], environ: Mapping[str, str], stop: threading.Event, *, production: bool
) -> int:
    _say(f"starting {', '.join(part.name for part in parts)}")
    with Supervisor(environ, _say_for, production=production) as supervisor:
        supervisor.start(parts, stop)
        if not stop.is_set():
            _introduce(parts, supervisor, environ)
            supervisor.watch(stop, _report_death, lambda part: _say(f"{part.name} is back at {part.url}"))
        if stop.is_set():
            _say("stopping")
            return 0
    _say("nothing is left running", sys.stderr)
    return 1


def _introduce(parts: Sequence[Part], supervisor: Supervisor, environ: Mapping[str, str]) -> None:
    lines = [f"  {part.name:{_WIDTH}}  {part.url}  pid {supervisor.pid(part.name)}" for part in parts]
    elsewhere = [name for name in NAMES if name not in {part.name for part in parts}]
    lines += [
        f"  {name:{_WIDTH}}  {environ[find_part(name, environ).setting]}  (not ours)" for name in elsewhere
    ]
    url = next(part.url for part in parts if part.name == BACKEND)
    _say(
        "\n".join(
            [
                "ready",
                *lines,
                "Try:",
                *(f"  {line}" for line in _examples(url, environ)),
                f"End a part with kill -9 <pid>, ask again, and look at {url}/status",
                f"To act there, sign in with {_admin_token(environ)}",
                "Ctrl-C stops everything.",
            ]
        )
    )


def _examples(url: str, environ: Mapping[str, str]) -> list[str]:
    post = f"curl -s {_who(environ)}-H 'Content-Type: application/json' {url}/v1/api"
    document = '{"id": "refunds", "text": "Refunds are paid within 14 days of the return."}'
    return [
        f'{post}/documents -d \'{{"project_id": "demo", "documents": [{document}]}}\'',
        f'{post}/search -d \'{{"project_id": "demo", "query": "refunds"}}\'',
        f'{post}/chat -d \'{{"project_id": "demo", "message": "When are refunds paid?"}}\'',
    ]


def _admin_token(environ: Mapping[str, str]) -> str:
    # What was made for this run is in its environment by now: ask ours.
    path = admin_token_file(os.environ)
    return "your ADMIN_TOKEN" if path is None else f"the token in {path}"


def _who(environ: Mapping[str, str]) -> str:
    """The part of a curl command that says who asks."""
    if environ.get("AUTH_JWT_SECRET"):
        return f'-H "Authorization: Bearer $({_command()} token --user alice)" '
    return '-H "Authorization: Bearer <token>" ' if environ.get("AUTH_JWT_PUBLIC_KEY") else ""


def _report_death(part: Part, obituary: str) -> None:
    again = f"{_command()} --only {part.name} --port {part.port}"
    var = os.environ.get("VAR_DIR")
    _say(
        f"{obituary}\nstart it again with:\n  {f'VAR_DIR={shlex.quote(var)} ' if var else ''}{again}",
        sys.stderr,
    )


def _command() -> str:
    shown = min(sys.executable, os.path.relpath(sys.executable), key=len)
    return f"{shlex.quote(shown)} -m backend"


def _say_for(name: str, line: str) -> None:
    print(f"{name:{_WIDTH}} | {line}", flush=True)


def _say(text: str, out: object = None) -> None:
    print(text, file=out or sys.stdout, flush=True)  # type: ignore[arg-type]


@contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """An event that the first signal sets; a second one is taken as usual, for those who are in a hurry."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    # Under nohup a closed terminal is to be ignored.
    heard = [
        each for each in _SIGNALS if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN
    ]
    before = [(number, signal.signal(number, on_signal)) for number in heard]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)
