"""Which names a file in a project may have: decided on the text alone, before anything is opened."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

__all__ = ["MOST_FOLDERS", "check_file_path", "is_allowed_name", "saving_name"]

MOST_FOLDERS: Final = 32
_LONGEST_PATH: Final = 4096  # bytes
_LONGEST_NAME: Final = 255  # bytes; what file systems take
_SAVING: Final = ".saving-"
# What git would take for its own folder, under some file system or other; its contents run as commands.
_GIT_NAMES: Final = frozenset({".git", "git~1"})


def check_file_path(path: str) -> str:
    """The path itself, if it names a file below a project's folder: ``notes/2024/plan.md``.

    Raises:
        ValueError: It says what is wrong, without the path.
    """
    _refuse_if(not path, "must not be empty")
    _refuse_if(len(_encoded(path)) > _LONGEST_PATH, f"must not be longer than {_LONGEST_PATH} bytes")
    _refuse_if(path.startswith("/"), "must be relative to the project, without a leading slash")
    names = path.split("/")
    _refuse_if(len(names) > MOST_FOLDERS + 1, f"must not be more than {MOST_FOLDERS} folders deep")
    for name in names:
        _check_name(name)
    return path


def is_allowed_name(name: str) -> bool:
    """Whether a file or folder of this name can be part of a path; others are never shown."""
    try:
        _check_name(name)
    except ValueError:
        return False
    return True


def saving_name(name: str) -> str:
    """What a file of this name is called while it is being written, next to its place.

    Always the same for the same name, so that what a killed process left behind is found, and used up.
    """
    return _SAVING + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _check_name(name: str) -> None:
    _refuse_if(not name, "must not have an empty part: no double slash, no slash at the end")
    _refuse_if(name in {".", ".."}, "must not have . or .. as a part")
    _refuse_if("/" in name or "\\" in name, "must not have a backslash")
    _refuse_if(any(unicodedata.category(c) == "Cc" for c in name), "must not have NUL or control characters")
    _refuse_if(len(_encoded(name)) > _LONGEST_NAME, f"must not have a part longer than {_LONGEST_NAME} bytes")
    plain = _plain(name)
    _refuse_if(
        plain in _GIT_NAMES or plain.startswith(_SAVING), "must not use a name reserved by the service"
    )


def _plain(name: str) -> str:
    """The name as the most forgiving file systems see it: no case, no invisible characters, no last dots."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return visible.casefold().partition(":")[0].rstrip(". ")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None


def _refuse_if(flaw: bool, message: str) -> None:
    if flaw:
        raise ValueError(message)
