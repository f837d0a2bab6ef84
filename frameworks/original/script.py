"""Starts a program so that an error in any of its threads ends it.

    python -m frameworks.original.script train.py --network r50

Python ends a thread alone, and a program whose thread for reading images ends so on a damaged one waits for
the next batch for ever.
"""

import os
import runpy
import sys
import threading
from typing import Any, Callable, List


def run(argv: List[str]) -> None:
    """Run the program as `python ARGV` would in the folder of this process; end it where a thread fails."""
    threading.excepthook = _ending(threading.excepthook)
    sys.argv[:] = argv
    runpy.run_path(argv[0], run_name="__main__")


def _ending(show: Callable[[Any], Any]) -> Callable[[Any], None]:
    def end(failure: Any) -> None:
        show(failure)
        if failure.exc_type is not SystemExit:
            sys.stdout.flush()
            os._exit(1)

    return end


if __name__ == "__main__":
    run(sys.argv[1:])
