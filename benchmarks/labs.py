"""The labs of the tests, for benchmarks: hosts in network namespaces, Slurm on them, numpy as a framework."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "lab"), str(ROOT)]

import netlab  # noqa: E402  a folder of the tests
import slurm_lab  # noqa: E402
from netlab import Host, NetLab, tool  # noqa: E402
from run_folders import make_case  # noqa: E402
from slurm_lab import Slurm, SlurmSweepLab  # noqa: E402
from sweep_lab import SweepLab  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "ROOT", "Host", "NetLab", "Slurm", "SlurmSweepLab", "SweepLab", "beside", "cluster_file", "make_case",
    "require_lab", "tool",
]  # fmt: skip


def require_lab(*, slurm: bool = False) -> None:
    """End the program where no lab can be made."""
    reason = slurm_lab.why_not() if slurm else netlab.why_not()
    if reason is not None:
        raise SystemExit(f"no lab here: {reason}")


def cluster_file(path: Path, lab: NetLab, hosts: int, **more: Any) -> Path:
    """A cluster of the first hosts of a lab, each with one CPU device."""
    content = {
        "device": "cpu",
        "devices": 1,
        "cores": 1,
        "interface": "eth0",
        "ssh_config": str(lab.home / ".ssh" / "config"),
        "python": sys.executable,
        "nodes": [host.name for host in lab.hosts[:hosts]],
        **more,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@contextmanager
def beside(commands: Iterable[list[str]]) -> Iterator[None]:
    """Run commands in sessions of their own, which the kernel may treat as equals of what is measured."""
    with ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
