"""What the processes of an original program read.

Such programs take images in an order of their own, and what they wait for images is not known; the kernel
counts what they read.
"""

import time
from typing import Any, Dict, Tuple

from frameworks.common.page_cache import bytes_read
from frameworks.process_tree import tree


class ReadWindow:
    """What the processes of the program read from its start on."""

    def __init__(self) -> None:
        self._clock, self._before = time.perf_counter(), _bytes_by_process()

    def close(self) -> Dict[str, Any]:
        """The value of the event `reading`. Processes that ended meanwhile are left out."""
        seconds, after = time.perf_counter() - self._clock, _bytes_by_process()
        calls = storage = 0
        for pid, (called, stored) in after.items():
            called_before, stored_before = self._before.get(pid, (0, 0))
            calls, storage = calls + called - called_before, storage + stored - stored_before
        known = bool(after)
        return {
            "seconds": round(seconds, 6),
            "wait_seconds": None,
            "read_bytes": calls if known else None,
            "storage_bytes": storage if known else None,
            "read_mib_per_second": round(calls / seconds / 2**20, 3) if known else None,
        }


def _bytes_by_process() -> Dict[int, Tuple[int, int]]:
    read = {pid: bytes_read([pid]) for pid in tree()[1:]}
    return {pid: (found.calls, found.storage) for pid, found in read.items() if found is not None}
