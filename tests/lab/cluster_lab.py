"""`dlperf run --cluster` on the hosts of the lab. For tests only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from processes import until
from sweep_lab import SweepLab

if TYPE_CHECKING:
    from pathlib import Path

    from netlab import Host, NetLab

FOLDER = "/root/disk"
WORK = f"{FOLDER}/dlperf-node"
# Longer than any test lasts.
LONG = {"warmup_iterations": 1, "measured_iterations": 6000, "repeats": 1}


@dataclass
class ClusterLab(SweepLab):
    """A sweep lab whose dlperf has the home folder of a user of the lab's hosts, and a cluster file `lab`."""

    net: NetLab = field(kw_only=True)

    def __post_init__(self) -> None:
        self.variables["HOME"] = str(self.net.home)
        # As long as it exists, what `fault_while` names goes wrong; the hosts see this folder.
        self.trouble = self.net.folder / f"trouble-{self.mark}"
        self.trouble.touch()
        self.write_cluster()

    def write_cluster(self, *, hosts: int | None = None, **keys: Any) -> None:
        """Write clusters/lab.yaml with the first `hosts` hosts, and lay `keys` over it."""
        content: dict[str, Any] = {
            "device": "cpu",
            "devices": 2,
            "cores": 2,
            "folder": FOLDER,
            # `ssh` reads the file of the user's own home folder, whatever HOME says.
            "ssh_config": str(self.net.home / ".ssh" / "config"),
            "python": sys.executable,
            "environment": {"NCCL_TEST_MARK": self.mark},
            "nodes": [host.name for host in self.net.hosts[:hosts]],
        }
        (self.folder / "clusters").mkdir(exist_ok=True)
        (self.folder / "clusters" / "lab.yaml").write_text(yaml.safe_dump(content | keys))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `dlperf run tiny.yaml --cluster lab ARGUMENTS`."""
        return super().start("--cluster", "lab", *arguments, **options)

    def dlperf(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "dlperf", *words],
            cwd=self.folder,
            env=os.environ | self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def environment_of(self, run: Path) -> dict[str, Any]:
        """environment.json of a run folder."""
        content: dict[str, Any] = json.loads((run / "environment.json").read_text())
        return content

    def console(self, host: Host, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on a host without ssh; it goes on."""
        enter = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "nsenter",
            "-t",
            str(host.init),
            "-n",
            "-m",
            "-u",
            "-i",
            "-p",
        ]
        return subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL, start_new_session=True)

    def left_on(self, host: Host) -> list[int]:
        """Processes of this lab's runs on a host."""
        return host.processes(f"NCCL_TEST_MARK={self.mark}") + host.processes("DLPERF_RUN=")

    def until_step(self, host: Host, step: int = 1) -> None:
        """Wait until a rank on a host has finished an iteration."""
        self.until_logged(host, f'"step": {step},')

    def until_logged(self, host: Host, text: str, *, limit: float = 60.0) -> None:
        """Wait until a rank on a host has printed `text`."""
        runs = host.path(f"{WORK}/runs")

        def seen() -> bool:
            return any(text in log.read_text(errors="replace") for log in runs.glob("*/logs/rank*.log"))

        until(seen, limit=limit, what=f"{text} on {host.name}")
