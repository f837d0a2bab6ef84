"""The process that samples telemetry beside the ranks. For the supervisor, on Linux.

It is no rank, and whatever happens to it changes nothing for the run.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from frameworks.process_tree import die_with_parent

PROGRAM = Path(__file__).resolve().parent / "node" / "telemetry.py"
LOWEST_PRIORITY = 19


class Sampler:
    """frameworks/node/telemetry.py, from its start to its end."""

    def __init__(self, spec: Dict[str, Any], pids: List[int], cpus: List[int]) -> None:
        """Start it for these ranks, which run on these CPUs; if that fails, there is no telemetry."""
        self.pid: Optional[int] = None
        self.cpu_seconds = 0.0  # known at its end
        supervisor = os.getpid()

        def prepare() -> None:
            die_with_parent(signal.SIGKILL, supervisor)
            os.nice(LOWEST_PRIORITY)

        argument = json.dumps({**spec, "pids": pids, "cpus": cpus})
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), argument],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509  no threads yet
            )
            process.returncode = 0  # reaped by pid, together with the ranks
            self.pid = process.pid

    def ended(self, usage: Any) -> None:
        """Keep what it took, as wait4 says."""
        self.pid, self.cpu_seconds = None, usage.ru_utime + usage.ru_stime
