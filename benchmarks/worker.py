"""A contender in a process of its own: told on its standard input what to do, it says what that cost.

    python -m benchmarks.worker MODULE NAME [BASE_URL CERTIFICATE]

`MODULE.make(NAME, ...)` returns what can be done by kind, each a function that takes a count. A line
`KIND COUNT` is answered by a line of JSON with the seconds of CPU. It ends when its standard input does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback

from benchmarks.machine import versions

DISTRIBUTIONS = (
    "service-utils requests urllib3 pybreaker tenacity circuitbreaker httpx httpcore niquests urllib3-future "
    "pycurl"
).split()


def main() -> None:
    module, name, *arguments = sys.argv[1:]
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        kinds = importlib.import_module(module).make(name, *arguments)
        said.write(json.dumps({"kinds": list(kinds), "versions": versions(*DISTRIBUTIONS)}) + "\n")
        for line in sys.stdin:
            kind, count = line.split()
            began = time.process_time()
            kinds[kind](int(count))
            said.write(json.dumps({"cpu": time.process_time() - began}) + "\n")
    except Exception as error:
        traceback.print_exc()
        said.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
    said.close()
    os._exit(0)  # background threads and open connections are of no interest any more


if __name__ == "__main__":
    main()
