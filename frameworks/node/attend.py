"""Answers dlperf's requests on a node, as long as its lease is renewed.

Requests are JSON lines on standard input, answered in order by JSON lines on standard output; `{"beat": n}`
is answered at once, even during another request. If standard input ends, or is silent for LEASE_SECONDS, this
process ends, and with it everything that it started and the lock that it holds.
"""

import contextlib
import json
import os
import platform
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from frameworks.host_lock import HostLock, Unusable
from frameworks.node import Refused
from frameworks.node.busy import busy
from frameworks.node.condition import condition
from frameworks.node.environments import MANIFEST, UV_CACHE, checked, environment, find_uv, uv_cache
from frameworks.node.facts import address_of, facts, physical_cores
from frameworks.node.gpus import gpu_rows, gpu_users, visible_devices
from frameworks.node.locks import end_processes, run_processes, until_deserted

LEASE_SECONDS = 10.0

Answer = Dict[str, Any]


class Attendant:
    """Answers requests; all its files are under `work`."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._lock = HostLock()
        self._heard = time.monotonic()
        self._writing = threading.Lock()
        self._requests: queue.Queue[Answer] = queue.Queue()

    def serve(self) -> None:
        """Answer until standard input ends."""
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._keep_lease, daemon=True).start()
        while True:
            request = self._requests.get()
            try:
                self.say(self._answer(request))
            except (Refused, Unusable) as refusal:
                self.say({"refused": str(refusal)})
            except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
                self.say({"refused": f"{type(error).__name__}: {error}"})

    def say(self, answer: Answer) -> None:
        """Write one line; if nobody reads it, this process ends."""
        try:
            with self._writing:
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
        except OSError:
            leave()

    def _read(self) -> None:
        for line in sys.stdin:
            self._heard = time.monotonic()
            with contextlib.suppress(ValueError):
                request = json.loads(line)
                if "beat" in request:
                    self.say(request)
                else:
                    self._requests.put(request)
        leave()

    def _keep_lease(self) -> None:
        while time.monotonic() - self._heard < LEASE_SECONDS:
            time.sleep(0.5)
        leave()

    def _answer(self, request: Answer) -> Answer:
        operations: Dict[str, Callable[..., Answer]] = {
            "hello": self._hello,
            "lock": self._take_lock,
            "facts": lambda: {"facts": facts()},
            "gpus": lambda: {"gpus": [gpu._asdict() for gpu in visible_devices()]},
            "busy": lambda: {"busy": busy()},
            "there": lambda path: {"there": (self._work / path).is_dir()},
            "port": lambda: {"port": free_port()},
            "time": lambda: {"time": time.time()},
            "condition": self._condition,
            "environment": self._environment,
            "adopt": lambda **request: {"environment": checked(**request)},
            "end": lambda run: {"killed": sorted(end_processes(self._work / "runs" / run))},
            "clean": self._clean,
        }
        arguments = dict(request)
        return operations[arguments.pop("op")](**arguments)

    def _hello(self, interface: Optional[str], variables: Dict[str, str]) -> Answer:
        os.environ.update(variables)
        os.environ.update(uv_cache(self._work))
        return {
            "executable": sys.executable,
            "architecture": platform.machine(),
            "work": str(self._work),
            "address": address_of(interface) if interface else None,
            "cpus": physical_cores(),
            "uv": find_uv(self._work),
        }

    def _take_lock(self) -> Answer:
        """The answer names who else measures here; None: the lock is this dlperf's."""
        holder = self._lock.take()
        if holder is None:
            try:
                self._remove_runs()
            except BaseException:
                self._lock.release()
                raise
        return {"holder": holder}

    def _remove_runs(self) -> List[Path]:
        """Remove the folders of all runs, when each supervisor, whose harness was killed, has ended."""
        runs = self._work / "runs"
        folders = sorted(runs.iterdir()) if runs.is_dir() else []
        for folder in folders:
            until_deserted(folder)
            shutil.rmtree(folder)
        return folders

    def _condition(self) -> Answer:
        """What `dlperf cluster check` shows, except what it measures from outside."""
        free = shutil.disk_usage(self._work)
        probe = self._work / f".writable-{os.getpid()}"
        try:
            probe.write_bytes(b"x")
        finally:
            with contextlib.suppress(FileNotFoundError):
                probe.unlink()
        gpus = visible_devices()
        free_mib = dict(map(tuple, gpu_rows("uuid", "memory.free")))
        environments = sorted(path.parent.name for path in self._work.glob(f"environments/*/{MANIFEST}"))
        lock = HostLock()
        holder = lock.take()
        lock.release()
        return {
            "facts": facts(),
            "python": platform.python_version(),
            "free_bytes": free.free,
            "environments": environments,
            "holder": holder,
            "left_processes": [] if holder else run_processes(self._work / "runs"),
            "gpus": [gpu._asdict() for gpu in gpus],
            "gpus_free_mib": [free_mib.get(gpu.uuid) for gpu in gpus],
            "gpu_processes": gpu_users(gpus),
            "iperf3": shutil.which("iperf3"),
            "uv": find_uv(self._work),
            "machine": condition(self._work / "environments"),
        }

    def _environment(self, **request: Any) -> Answer:
        return {"environment": environment(self._work, self.say, **request)}

    def _clean(self, *, everything: bool) -> Answer:
        """End processes that runs of dlperf left and remove their folders; refused during a run."""
        holder = self._lock.take()
        if holder is not None:
            raise Refused(f"another dlperf measures on this node ({holder}); nothing was touched")
        killed = end_processes(self._work / "runs")
        removed = self._remove_runs()
        if everything:
            for name in ("code", "environments", "sources", "tools", "runs", UV_CACHE):
                if (self._work / name).is_dir():
                    removed.append(self._work / name)
                    shutil.rmtree(self._work / name)
        return {"killed": sorted(killed), "removed": [str(folder) for folder in removed]}


def leave() -> None:
    """End this process at once; the kernel ends everything that it started."""
    os._exit(0)


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
