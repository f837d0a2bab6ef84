"""The supervisor's other half: a process that ends the tree when the supervisor itself is killed."""

import contextlib
import os
import signal
import sys
import time
from typing import Callable

from process_tree import become_subreaper, die_with_parent, kill_all
from rank_memory import remove_left_groups

EXIT_KILLED, EXIT_NO_OUTCOME = 4, 5
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_REAP_INTERVAL_SECONDS = 0.02


def guarded(work: Callable[[], int]) -> int:
    """Run `work` in a child and give its exit code; its tree ends even when that child itself is killed.

    When this process is killed instead, the child ends its tree and itself.
    """
    become_subreaper()
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        code = EXIT_NO_OUTCOME
        try:
            become_subreaper()
            die_with_parent(signal.SIGTERM, guard)
            code = work()
        except BaseException as error:  # noqa: BLE001  the child must not return into main
            print(f"supervisor.py: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda received, _: os.kill(worker, received))
    _, status = os.waitpid(worker, 0)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    kill_all(_reap_orphans)
    remove_left_groups(mine=True)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else EXIT_KILLED


def _reap_orphans() -> None:
    """Wait for whatever has ended, a moment after it was killed."""
    time.sleep(_REAP_INTERVAL_SECONDS)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
