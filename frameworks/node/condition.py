"""What of this machine can disturb a sweep: limits, small disks, GPUs. As a program it prints it as JSON.

dlperf/running/condition.py judges it and says what to do.
"""

import json
import os
import re
import resource
import shutil
import socket
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from frameworks.node.commands import output
from frameworks.node.facts import address_of
from frameworks.node.gpus import gpu_rows, visible_devices

RDMA_DEVICES = Path("/sys/class/infiniband")
GPU_FIELDS = (
    "mig.mode.current",
    "memory.used",
    "persistence_mode",
    "power.limit",
    "ecc.errors.uncorrected.volatile.total",
    "retired_pages.pending",
)
REMAPPED_ROWS = ("remapped_rows.pending", "remapped_rows.failure")
_PYTHON_HEADER = (
    "import sysconfig as s; print(s.get_python_version(), s.get_path('include') + '/Python.h', sep='\\n')"
)


def condition(environments: Path) -> Dict[str, Any]:
    """The fields of dlperf/running/condition.py's Condition; `environments` is the folder of environments."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    rdma = sorted(os.listdir(RDMA_DEVICES)) if RDMA_DEVICES.is_dir() else []  # noqa: PTH208
    gpus = gpu_states()
    return {
        "cpus": sorted(os.sched_getaffinity(0)),
        "memlock_bytes": None if limit == resource.RLIM_INFINITY else limit,
        "rdma_devices": rdma,
        "shared_memory": space("/dev/shm"),  # noqa: S108 - its size is what is asked for
        "home": space(str(Path.home())),
        "interfaces": interfaces(),
        "host_address": host_address(),
        "gpus": gpus,
        "asked_compiler": os.environ.get("CC"),
        "compiler": compiler(),
        "headers": headers(environments) if gpus else [],
    }


def space(path: str) -> Optional[Dict[str, Any]]:
    """A folder's file system: size and free space in bytes, whether we may write; None: no folder."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    writable = os.access(path, os.W_OK | os.X_OK)
    return {"path": path, "total_bytes": usage.total, "free_bytes": usage.free, "is_writable": writable}


def interfaces() -> Dict[str, str]:
    """The network interfaces that have an IPv4 address, and that address, in the kernel's order."""
    found = {name: address_of(name) for _, name in sorted(socket.if_nameindex())}
    return {name: address for name, address in found.items() if address is not None}


def host_address() -> Optional[str]:
    """The IPv4 address that this host's own name stands for; None if it has none."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def compiler() -> Optional[str]:
    """The C compiler that torch.compile would use, if there is one."""
    chosen = os.environ.get("CC")
    return next(filter(None, map(shutil.which, [chosen] if chosen else ["gcc", "clang"])), None)


def headers(environments: Path) -> List[Dict[str, Any]]:
    """Of every environment of PyTorch: its Python's version and header; empty text if it does not start."""
    found = []
    for python in sorted(environments.glob("pytorch-*/bin/python")):
        version, _, header = (output(str(python), "-I", "-c", _PYTHON_HEADER) or "").partition("\n")
        exists = bool(header) and Path(header).is_file()
        found.append({"python": str(python), "version": version, "header": header, "exists": exists})
    return found


def gpu_states() -> List[Dict[str, Any]]:
    """The state of every GPU that CUDA_VISIBLE_DEVICES leaves; None: the driver does not say."""
    rows = gpu_rows("index", "uuid", "name")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        visible = {str(device.index) for device in visible_devices()}
        rows = [row for row in rows if row[0] in visible]
    if not rows:
        return []
    said: Dict[str, Dict[str, str]] = {uuid: {} for _, uuid, _ in rows}

    def ask(key: str, *fields: str, query: str) -> bool:
        answers = gpu_rows(key, *fields, query=query)
        for uuid, *values in answers:
            said.setdefault(uuid, {}).update(zip(fields, values))
        return bool(answers)

    # It answers none where the driver does not know one of them.
    if not ask("uuid", *GPU_FIELDS, query="gpu"):
        for field in GPU_FIELDS:
            ask("uuid", field, query="gpu")
    ask("gpu_uuid", *REMAPPED_ROWS, query="remapped-rows")
    users = [uuid for uuid, _ in gpu_rows("gpu_uuid", "pid", query="compute-apps")]
    return [
        {
            "index": int(index),
            "name": name,
            "is_divided": yes(said[uuid].get("mig.mode.current")),
            "memory_used_mib": number(said[uuid].get("memory.used")),
            "processes": users.count(uuid),
            "persistence": yes(said[uuid].get("persistence_mode")),
            "power_limit_watts": number(said[uuid].get("power.limit")),
            "uncorrected_errors": number(said[uuid].get("ecc.errors.uncorrected.volatile.total")),
            "pages_pending": yes(said[uuid].get("retired_pages.pending")),
            "rows_pending": yes(said[uuid].get("remapped_rows.pending")),
            "rows_failed": yes(said[uuid].get("remapped_rows.failure")),
        }
        for index, uuid, name in rows
        if index.isdigit()
    ]


def yes(text: Optional[str]) -> Optional[bool]:
    """A word or a count of nvidia-smi; None if it says `[N/A]` or the like."""
    if text in ("Yes", "Enabled"):
        return True
    if text in ("No", "Disabled"):
        return False
    count = number(text)
    return None if count is None else count > 0


def number(text: Optional[str]) -> Optional[float]:
    """A number of nvidia-smi without its unit."""
    return float(text) if text is not None and re.fullmatch(r"\d+(\.\d+)?", text) else None


if __name__ == "__main__":
    json.dump(condition(Path(sys.argv[1])), sys.stdout)
