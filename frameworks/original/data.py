"""What the processes of an original program read.

Such programs take images in an order of their own, and what they wait for images is not known; the kernel
counts what they read.
"""

import time
from typing import Any, Dict

from frameworks.common.page_cache import BytesRead, bytes_read, reading_event
from frameworks.process_tree import tree


class ReadWindow:
    """What the processes of the program read from its start on."""

    def __init__(self) -> None:
        self._clock, self._before = time.perf_counter(), _read_by_process()

    def close(self) -> Dict[str, Any]:
        """The value of the event `reading`. Processes that ended meanwhile are left out."""
        seconds, after = time.perf_counter() - self._clock, _read_by_process()
        pairs = [(read, self._before.get(pid, BytesRead(0, 0))) for pid, read in after.items()]
        calls = sum(now.calls - before.calls for now, before in pairs)
        storage = sum(now.storage - before.storage for now, before in pairs)
        return reading_event(seconds, None, BytesRead(calls, storage) if pairs else None)


def _read_by_process() -> Dict[int, BytesRead]:
    found = {pid: bytes_read([pid]) for pid in tree()[1:]}
    return {pid: read for pid, read in found.items() if read is not None}
