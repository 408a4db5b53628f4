"""``python -m service_utils``: what operators do from a shell."""

from __future__ import annotations

import sys

from service_utils.dead_letters.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
