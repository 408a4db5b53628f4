"""``python -m service_utils dead-letters``: dead letters from a shell, and a worker as a process of its own.

Exit codes: 0 it is done; 1 nothing was found, or it was refused; 2 wrong use, or the file cannot be used.
"""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service_utils.dead_letters.arguments import Handlers, make_parser
from service_utils.dead_letters.errors import LetterTooOld, UnknownLetter
from service_utils.dead_letters.letter import LetterStatus
from service_utils.dead_letters.queue import DeadLetterQueue
from service_utils.dead_letters.running import Plan, run_until_told
from service_utils.dead_letters.sqlite import SQLiteDeadLetters
from service_utils.dead_letters.tables import letter_in_full, letters_in_rows, say, stats_in_rows, write_json
from service_utils.storage import StorageError

__all__ = ["main"]

_DONE, _NOTHING, _WRONG = 0, 1, 2
_INTERRUPTED = 130  # what shells say of a program that Ctrl-C has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    options = make_parser(_HANDLERS).parse_args(arguments)
    path = Path(options.file)
    try:
        flaw = None if getattr(options, "create", False) else _flaw_of(path)
        if flaw is not None:
            # SQLite would make one, and whoever has mistyped its name would read that all is well.
            return _fail(f"{options.file}: {flaw}", _WRONG)
        with contextlib.closing(SQLiteDeadLetters(path)) as store:
            code: int = options.command(DeadLetterQueue(store), options)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _DONE
    except (LetterTooOld, UnknownLetter) as error:
        return _fail(str(error), _NOTHING)
    except (StorageError, OSError, ValueError, TypeError) as error:
        return _fail(str(error), _WRONG)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _flaw_of(path: Path) -> str | None:
    """Why a path leads to no queue."""
    if path.is_dir():
        return "is a directory"
    if not path.exists():
        return "there is no such file"
    return None if SQLiteDeadLetters.is_one(path) else "is no queue of dead letters"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


def _answer(options: Namespace, number: int, sentence: str) -> int:
    """How many letters something was done with."""
    if options.json:
        write_json({"letters": number})
    else:
        say(sentence.format(letters="1 letter" if number == 1 else f"{number} letters"))
    return _DONE if number else _NOTHING


def _filter(options: Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("service", "status")}


def _run(queue: DeadLetterQueue, options: Namespace) -> int:
    plan = Plan(
        clients=options.client,
        interval=options.interval,
        batch_size=options.batch_size,
        lease_seconds=options.lease,
        once=options.once,
        json=options.json,
    )
    return _DONE if run_until_told(queue, plan) else _NOTHING


def _list(queue: DeadLetterQueue, options: Namespace) -> int:
    letters = queue.list(limit=options.limit, after=options.after, **_filter(options))
    if options.json:
        write_json([letter.as_dict() for letter in letters])
    else:
        letters_in_rows(letters)
    return _DONE if letters else _NOTHING


def _show(queue: DeadLetterQueue, options: Namespace) -> int:
    letter = queue.get(options.id)
    if letter is None:
        raise UnknownLetter(f"no letter has the id {options.id!r}")
    if options.json:
        write_json(letter.as_dict(body=options.body))
    else:
        letter_in_full(letter, body=options.body)
    return _DONE


def _retry(queue: DeadLetterQueue, options: Namespace) -> int:
    if not queue.retry(options.id, force=options.force):
        return _fail(f"letter {options.id} is in a worker's hand just now", _NOTHING)
    return _answer(options, 1, "{letters} will be tried again.")


def _retry_all(queue: DeadLetterQueue, options: Namespace) -> int:
    status = options.status or LetterStatus.DEAD
    number = queue.retry_all(options.service, status, force=options.force)
    if not number and not options.json:
        say(f"There are no {status} letters to be tried again.")
        return _NOTHING
    return _answer(options, number, "{letters} will be tried again.")


def _purge(queue: DeadLetterQueue, options: Namespace) -> int:
    number = queue.purge(older_than=options.older_than, **_filter(options))
    return _answer(options, number, "{letters} removed for good.")


def _stats(queue: DeadLetterQueue, options: Namespace) -> int:
    stats = queue.stats()
    if options.json:
        write_json(stats)
    else:
        stats_in_rows(stats)
    return _DONE


_HANDLERS = Handlers(
    run=_run, list=_list, show=_show, retry=_retry, retry_all=_retry_all, purge=_purge, stats=_stats
)
