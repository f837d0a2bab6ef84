"""A real Slurm whose nodes are the hosts of a NetLab: ranks of different nodes meet over real addresses.

Needs the packages slurm-wlm and munge beside what netlab.py needs; for accounts slurmdbd and mariadb-server.
This machine is the login node: slurmctld and munged, and with accounts slurmdbd and its MariaDB, run here on
free ports and sockets of the lab; each host runs its slurmd. They die with the thread that made them, as the
hosts do. Jobs are root's.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import netlab
import yaml
from netlab import Host, NetLab, started_with_us
from processes import PROMISED_SECONDS, until
from sweep_lab import SweepLab

_PROGRAMS = ("slurmctld", "slurmd", "munged")
_ACCOUNTANTS = ("slurmdbd", "mariadbd")
_TOOLS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
CORES, GPUS, LOST_SECONDS = 16, 8, 5
# Packages of Debian put them where not every user's PATH leads.
_SBIN = "/usr/sbin"


def why_not(*, keeps_accounts: bool = False) -> str | None:
    """Why no Slurm can be made here; None where one can."""
    programs = (*_PROGRAMS, *_ACCOUNTANTS) if keeps_accounts else _PROGRAMS
    missing = [name for name in programs if not Path(_SBIN, name).exists()]
    missing += [name for name in _TOOLS if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} is missing (tools/packages.sh installs what tools/packages.txt lists)"
    return netlab.why_not()


@dataclass
class Slurm:
    """Partitions are `main`, `urgent`, which preempts main, and `small`, of one node for ten minutes."""

    net: NetLab
    keeps_accounts: bool = False  # with slurmdbd and a MariaDB, whose start takes some seconds
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.net.folder / "slurm"
        self.conf = self.folder / "slurm.conf"

    def __enter__(self) -> Self:
        (self.folder / "munge").mkdir(parents=True, mode=0o700)
        (self.folder / "state").mkdir()
        (self.folder / "log").mkdir()
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._write_conf()
        try:
            self._start_munged()
            if self.keeps_accounts:
                self._start_accounts()
            self.start_controller()
            for host in self.net.hosts:
                self.start_node(host)
            self.until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*reversed(self._daemons)]:
            self._end(name)

    def _write_conf(self) -> None:
        port, accounts = _free_port(), ["AccountingStorageType=accounting_storage/none"]
        if self.keeps_accounts:
            accounts = self._write_dbd_conf(port=_free_port())
        here, address = socket.gethostname().partition(".")[0], f"{self.net.subnet}.1"
        for number in range(GPUS):  # a device file that says that there is a GPU
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        lines = [
            "ClusterName=lab",
            f"SlurmctldHost={here}({address})",
            f"SlurmctldPort={port}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "CryptoType=crypto/munge",
            f"AuthInfo=socket={self.folder}/munge.sock",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmdSpoolDir={self.folder}/spool.%n",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=CANCEL",
            "JobAcctGatherType=jobacct_gather/none",
            *accounts,
            "ReturnToService=2",
            "InactiveLimit=0",
            "KillWait=2",
            "MinJobAge=300",
            "MaxArraySize=2",
            "SlurmctldTimeout=30",
            f"SlurmdTimeout={LOST_SECONDS}",
            "PropagateResourceLimits=NONE",
            "SlurmdParameters=config_overrides",
            "MailProg=/bin/true",
            "GresTypes=gpu",
        ]
        for host in self.net.hosts:
            (self.folder / f"spool.{host.name}").mkdir()
            lines.append(
                f"NodeName={host.name} NodeHostname={host.name} NodeAddr={host.ip} CPUs={CORES} Boards=1 "
                f"Sockets=1 CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory=8000 Gres=gpu:{GPUS} "
                f"Feature=lab,{host.name}s State=UNKNOWN"
            )
        everything = ",".join(host.name for host in self.net.hosts)
        lines += [
            f"PartitionName=main Nodes={everything} Default=YES MaxTime=INFINITE State=UP PriorityTier=1",
            f"PartitionName=urgent Nodes={everything} MaxTime=INFINITE State=UP PriorityTier=9",
            f"PartitionName=small Nodes={self.net.hosts[0].name} MaxTime=10 State=UP PriorityTier=1",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        (self.folder / "gres.conf").write_text(
            "".join(
                f"NodeName={host.name} Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
                for host in self.net.hosts
            )
        )

    def _start(self, name: str, enter: str, *command: object) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            words = [str(word) for word in command]
            self._daemons[name] = started_with_us(
                enter, *words, errors=log, variables={"SLURM_CONF": str(self.conf)}
            )

    def _end(self, name: str) -> None:
        process = self._daemons.pop(name)
        process.kill()
        process.wait(10)

    def _start_munged(self) -> None:
        munge = self.folder / "munge"
        options = {
            "key-file": munge / "key",
            "socket": self.folder / "munge.sock",
            "pid-file": munge / "pid",
            "log-file": munge / "log",
            "seed-file": munge / "seed",
            "num-threads": 2,
        }
        words = [f"--{key}={value}" for key, value in options.items()]
        self._start("munged", "", f"{_SBIN}/munged", "--foreground", "--force", *words)
        until((self.folder / "munge.sock").exists, what="munged is up")

    def _write_dbd_conf(self, *, port: int) -> list[str]:
        """Write the settings of slurmdbd; those of slurm.conf that lead to it."""
        lines = [
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder}/munge.sock",
            "DbdHost=localhost",
            f"DbdPort={port}",
            "SlurmUser=root",
            f"LogFile={self.folder}/log/slurmdbd.log",
            f"PidFile={self.folder}/slurmdbd.pid",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",
            "StorageUser=root",
            "StorageLoc=slurm",
        ]
        path = self.folder / "slurmdbd.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=localhost",
            f"AccountingStoragePort={port}",
            f"AccountingStoragePass={self.folder}/munge.sock",
            "AccountingStorageEnforce=limits",
        ]

    def _start_accounts(self) -> None:
        """Start a MariaDB of the lab alone, on a socket in its folder, and slurmdbd."""
        data, address = self.folder / "accounts", self.folder / "mariadb.sock"
        small = ("--no-defaults", f"--datadir={data}", "--user=root", "--innodb-log-file-size=4M")
        made = ["mariadb-install-db", *small, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, capture_output=True, check=True)
        on_socket = (f"--socket={address}", "--skip-networking", "--innodb-flush-log-at-trx-commit=0")
        self._start("mariadbd", "", f"{_SBIN}/mariadbd", *small, *on_socket)
        until(address.exists, what="mariadbd is up")
        self._start("slurmdbd", f"env MYSQL_UNIX_PORT={address}", f"{_SBIN}/slurmdbd", "-D")
        until(
            lambda: "lab" in self.ask("sacctmgr", "-i", "add", "cluster", "lab"),
            what="slurmdbd is up",
        )

    def start_controller(self) -> None:
        """Start slurmctld; jobs that it knew before go on."""
        self._start("slurmctld", "", f"{_SBIN}/slurmctld", "-D", "-f", self.conf)
        until(lambda: "is UP" in self.ask("scontrol", "ping"), what="slurmctld is up")

    def stop_controller(self) -> None:
        """End slurmctld as its service does; killed, it would forget jobs that it has not saved yet."""
        self._daemons["slurmctld"].terminate()
        self._daemons["slurmctld"].wait(60)
        self._end("slurmctld")

    def start_node(self, host: Host, *, cores: str | None = None) -> None:
        """Start the slurmd of a host; on some cores alone, such as `0`."""
        bound = "" if cores is None else f"taskset -c {cores} "
        enter = f"{bound}nsenter -t {host.init} -n -m -u -i -p"
        self._start(host.name, enter, f"{_SBIN}/slurmd", "-D", "-f", self.conf, "-N", host.name)

    def stop_node(self, host: Host) -> None:
        """Kill the slurmd of a host; what its jobs started goes on."""
        host.run("pkill", "-9", "-x", "slurmd")
        self._end(host.name)

    def set_down(self, host: Host) -> None:
        """Tell Slurm that a node is down, as it finds itself some time after its slurmd is gone."""
        self.ask("scontrol", "update", f"nodename={host.name}", "state=down", "reason=lost")

    def until_idle(self) -> None:
        """Wait until no job is left and every node waits for one; RuntimeError with what Slurm says."""

        def idle() -> bool:
            states = self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()
            return states == ["idle"] * len(self.net.hosts)

        try:
            until(idle)
        except AssertionError:
            logs = [log.read_text()[-1000:] for log in (self.folder / "log").iterdir()]
            raise RuntimeError(
                "\n".join(["Slurm is not idle:", self.ask("sinfo", "-N", "-l"), *logs])
            ) from None

    @property
    def variables(self) -> dict[str, str]:
        """What a login shell of this cluster has."""
        return {"SLURM_CONF": str(self.conf)}

    def ask(self, *command: str) -> str:
        """What a tool of Slurm prints; nothing where it fails."""
        done = subprocess.run(
            command, env=os.environ | self.variables, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job, such as NODE_FAIL."""
        words = self.ask("scontrol", "-o", "show", "job", job).split()
        return next((word.partition("=")[2] for word in words if word.startswith("JobState=")), "")

    def clear(self) -> None:
        """End all jobs and mend the nodes."""
        self.ask("scancel", "--user=root")
        for host in self.net.hosts:
            if self._daemons.get(host.name) is None:
                self.start_node(host)
        self.until_idle()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class SlurmSweepLab(SweepLab):
    """A sweep lab in a folder that all nodes see, and a cluster file `lab` of one node."""

    slurm: Slurm = field(kw_only=True)

    def __post_init__(self) -> None:
        self.variables |= self.slurm.variables
        # As long as it exists, what `fault_while` names goes wrong.
        self.trouble = self.folder / "trouble"
        self.trouble.touch()
        self.write_cluster()
        for host in self.slurm.net.hosts:  # of a job that the test before has ended
            shutil.rmtree(self._runs(host), ignore_errors=True)

    def write_cluster(self, nodes: int = 1, **keys: Any) -> None:
        """Write clusters/lab.yaml for so many nodes, and lay `keys` over it."""
        content: dict[str, Any] = {
            "transport": "slurm",
            "nodes": nodes,
            "device": "cpu",
            "devices": 2,
            "cores": 2,
            "folder": "/root/disk",
            "python": sys.executable,
            "environment": {"NCCL_TEST_MARK": self.mark},
        }
        (self.folder / "clusters").mkdir(exist_ok=True)
        (self.folder / "clusters" / "lab.yaml").write_text(yaml.safe_dump(content | keys))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `dlperf run tiny.yaml --cluster lab ARGUMENTS` on the login node."""
        return super().start("--cluster", "lab", *arguments, **options)

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that slurm.json of the results folder holds."""
        record = self.results / "slurm.json"
        content: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {"jobs": []}
        return list(content["jobs"])

    def job(self) -> str:
        """The number of the newest job, once there is one."""
        until(self.jobs, what="a job is submitted")
        return str(self.jobs()[-1]["number"])

    def log(self) -> str:
        """What the newest job has printed."""
        return (self.results / self.jobs()[-1]["log"]).read_text()

    def left_on(self, host: Host) -> list[int]:
        """Processes of this lab's runs on a host."""
        return host.processes(f"NCCL_TEST_MARK={self.mark}")

    def until_nothing_is_left(self) -> None:
        """Wait until every process of this lab's runs is gone from every host."""
        for host in self.slurm.net.hosts:
            what = f"nothing is left on {host.name}"
            until(lambda host=host: not self.left_on(host), limit=4 * PROMISED_SECONDS, what=what)

    @staticmethod
    def _runs(host: Host) -> Path:
        return host.path(f"/root/disk/{host.name}/dlperf-node/runs")

    def until_step(self, host: Host, step: int = 1) -> None:
        """Wait until a rank on a host has finished an iteration."""
        wanted = f'"step": {step},'

        def seen() -> bool:
            logs = self._runs(host).glob("*/logs/rank*.log")
            return any(wanted in log.read_text(errors="replace") for log in logs)

        until(seen, what=f"step {step} on {host.name}")
