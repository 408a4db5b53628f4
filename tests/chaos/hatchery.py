"""``python -m tests.chaos.hatchery``: makes processes that start at once, because all is imported already.

Orders come on standard input, one JSON object a line, and are answered on standard output likewise. It ends
with its input and takes its children along; they do not outlive it, either, however it ends.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

_MADE_READY = (
    "backend.app",
    "backend.services.billing",
    "backend.services.chroma",
    "backend.services.filesystem",
    "backend.services.git",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "tests.chaos.postman",
)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Take orders until there are no more."""
    for name in _MADE_READY:
        importlib.import_module(name)
    children: set[int] = set()
    _tell({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            children.discard(order["kill"])
            _kill(order["kill"])
            _tell({"killed": order["kill"]})
        else:
            pid = os.fork()
            if pid == 0:
                _become(order)
            children.add(pid)
            _tell({"pid": pid})
    for pid in children:
        _kill(pid)


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _kill(pid: int) -> None:
    """End one of our own at once; when this returns, it is gone and its port is free."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _become(order: dict[str, Any]) -> NoReturn:
    """In the child: be what was ordered."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, file in ((0, nothing), (1, log), (2, log)):
            os.dup2(file, number)
        os.environ.update(order["environ"])
        sys.argv = [order["name"], *order["arguments"]]
        module, _, function = order["target"].partition(":")
        getattr(importlib.import_module(module), function)()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
