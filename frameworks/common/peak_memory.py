"""How much memory this process used: anonymous memory on a CPU, its own use of its device on CUDA.

Anonymous memory (RssAnon) is what the program allocated and touched. The resident set (VmHWM, ru_maxrss) also
counts pages of libraries and other files, which two equal programs map in different numbers.
docs/limits.md compares both with the memory budget.
"""

import os
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from frameworks.node.gpus import nvidia_smi

STATUS = Path("/proc/self/status")
KIB, MIB = 1 << 10, 1 << 20


class AnonymousPeak:
    """The peak of this process's anonymous memory, from a few readings between the phases of a run.

    The kernel keeps the peak of the resident set, so a peak between two readings is not missed: what is not
    anonymous in it are files and shared memory, and both readings say how much these are. Where that changes
    in between, the larger amount is taken off, so the result is rather too low.
    """

    def __init__(self, status: Path = STATUS) -> None:
        self._status = status
        self._peak = self._highest = self._shared = 0

    def read(self) -> Optional[int]:
        """Take a reading; the peak so far in bytes, None if the kernel does not count anonymous memory."""
        sizes = _sizes(self._status)
        if sizes is None:
            return None
        resident_peak, anonymous, shared = sizes
        if resident_peak > self._highest:
            self._peak = max(self._peak, resident_peak - max(shared, self._shared))
        self._peak = max(self._peak, anonymous)
        self._highest, self._shared = resident_peak, shared
        return self._peak


def _sizes(status: Path) -> Optional[Tuple[int, int, int]]:
    """Bytes: peak of the resident set, anonymous now, files and shared memory now."""
    try:
        lines = (line.split() for line in status.read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines if words[-1] == "kB"}
        shared = kib["RssFile:"] + kib["RssShmem:"]
        return kib["VmHWM:"] * KIB, kib["RssAnon:"] * KIB, shared * KIB
    except (OSError, ValueError, KeyError, IndexError):
        return None


def device_bytes(pid: Optional[int] = None) -> Tuple[Optional[int], str]:
    """What a process, by default this one, holds on its device now, its CUDA context included.

    Of a process on several devices the largest. The engines' pools keep what they took, so at the end of
    training this is the peak. None if nvidia-smi does not say; then the text says why.
    """
    pid = os.getpid() if pid is None else pid
    query = "--query-compute-apps=pid,gpu_uuid,used_gpu_memory"
    text = nvidia_smi(query, "--format=csv,noheader,nounits")
    if text is None:
        return None, "nvidia-smi gives no list of processes"
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    by_device: Dict[str, List[str]] = {}
    for row in rows:
        if len(row) == 3 and row[0] == str(pid):  # noqa: PLR2004  as many fields as asked for
            by_device.setdefault(row[1], []).append(row[2])
    if not by_device:
        return None, "nvidia-smi does not list this process; outside a container it has another number"
    try:
        return max(sum(map(int, used)) for used in by_device.values()) * MIB, ""
    except ValueError:
        return None, "nvidia-smi does not tell how much memory a single process uses here"
