"""``python -m service_utils``: what operators do from a shell.

``dead-letters`` works on a file and needs nothing but the package; all else asks a running app and needs the
extra ``cli``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_USAGE = """\
usage: python -m service_utils --url http://HOST:PORT services|dlq|degradation|reliability ...
       python -m service_utils dead-letters ...

The first asks a running app over its admin API; it needs: pip install 'service-utils[cli]'
The second works on a file of dead letters. Either tells more with --help.
"""
_WITHOUT_CLICK = "Error: click is not installed, which this needs: pip install 'service-utils[cli]'\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["dead-letters"]:
        from service_utils.dead_letters.command import main as dead_letters

        return dead_letters(given)
    if not given:
        sys.stderr.write(_USAGE)
        return 2
    try:
        # By name, and late: integrations are at the edge, and only who wants them has what they need.
        from service_utils.integrations.cli.main import main as over_http
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        if given == ["--help"]:
            sys.stdout.write(_USAGE)
            return 0
        sys.stderr.write(f"{_USAGE}\n{_WITHOUT_CLICK}")
        return 2
    return over_http(given)


if __name__ == "__main__":
    sys.exit(main())
