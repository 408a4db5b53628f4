"""The tokens of a run, internal and admin, which parts started by hand find while the run lives."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["RunError", "admin_token_file", "living_run_token", "run_token", "var_dir"]

# By the file that has it: the variable it is for, and those with which a user has set one already.
_TOKENS = {
    "token": ("INTERNAL_SERVICE_TOKEN", ("INTERNAL_SERVICE_TOKEN", "INTERNAL_SERVICE_TOKEN_FILE")),
    "admin-token": ("ADMIN_TOKEN", ("ADMIN_TOKEN",)),
}


class RunError(Exception):
    """A run cannot start; the message is one line for the user."""


def var_dir(environ: Mapping[str, str]) -> Path:
    """Where the data of this machine's parts are kept."""
    return Path(environ.get("VAR_DIR") or "var")


@contextmanager
def run_token(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The settings with which all parts of a run know each other, and operators, while the block runs.

    A token that the user has set is used as it is. Else one is made and written to ``VAR_DIR/run/token``, or
    ``VAR_DIR/run/admin-token``, which only this user can read.

    Raises:
        RunError: Another run lives on the same data.
        OSError: The folder cannot be written.
    """
    folder = var_dir(environ) / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The lock, not the file, tells that a run lives: the kernel drops it however the process ends.
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(lock, fcntl.LOCK_EX):
            raise RunError(f"another run is using {folder.parent}: stop it, or set VAR_DIR to another folder")
        made: dict[str, str] = {}
        try:
            for name in _wanted(environ):
                token = secrets.token_urlsafe(32)
                _write_private(folder / name, token)
                made[_TOKENS[name][0]] = token
            yield made
        finally:
            for name in _TOKENS:
                (folder / name).unlink(missing_ok=True)
    finally:
        os.close(lock)


def living_run_token(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of :func:`run_token` for a part that joins a living run; empty when there are none."""
    folder = var_dir(environ) / "run"
    wanted = _wanted(environ)
    if not wanted or not _lives(folder):
        return {}
    found = {}
    for name in wanted:
        with suppress(OSError):
            found[_TOKENS[name][0]] = (folder / name).read_text("ascii")
    return found


def admin_token_file(environ: Mapping[str, str]) -> Path | None:
    """Where the admin token of a run is; None where the user has set one."""
    return var_dir(environ) / "run" / "admin-token" if "admin-token" in _wanted(environ) else None


def _wanted(environ: Mapping[str, str]) -> list[str]:
    return [name for name, (_, known) in _TOKENS.items() if not any(environ.get(each) for each in known)]


def _lives(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(file, "w", encoding="ascii") as out:
        out.write(text)
