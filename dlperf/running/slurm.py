"""Slurm as dlperf sees it: the job that we are in, jobs that we submit, and what became of them.

Slurm's tools are asked, never its libraries. What they say explains a run that has no outcome; it never
decides one. An answer that does not come, or is empty, is `unknown`.
"""

from __future__ import annotations

import math
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dlperf.errors import InfrastructureError, UserError
from dlperf.plan.cluster import LAST_SECONDS, Cluster, Container, SlurmSubmit

# Variables of a shell that would change a job, the steps in it or a tool's answer: a leaked SLURM_CPU_BIND
# binds every rank to the cores of somebody's earlier step, SQUEUE_STATES hides jobs, and nodes that all lock
# DLPERF_HOST_LOCK on shared storage exclude each other. SLURM_CONF says where the configuration is,
# DLPERF_CACHE where the environments are.
_LEAKING: Final = re.compile(
    r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SINFO|SACCT|SCONTROL|SCANCEL|PMIX?|OMPI|PRTE|PRRTE|DLPERF)_"
)
_KEPT: Final = frozenset({"SLURM_CONF", "DLPERF_CACHE"})
_TOOL_SECONDS: Final = 30.0
ATTEMPTS: Final = 4
_PAUSE_SECONDS: Final = 1.0
# Slurm may send the signal a minute earlier: not while runs still end that were to end before.
_SIGNAL_SECONDS: Final = LAST_SECONDS // 2

# States in which a job still waits or works; all others are ends.
_ALIVE: Final = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING"}
    | {"STAGE_OUT", "STOPPED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
UNKNOWN: Final = "unknown"
_FORGOTTEN: Final = re.compile(r"invalid job id", re.IGNORECASE)

# Ends that come from outside, and the reason of an outcome of a run under way.
_TAKEN_AWAY: Final = {
    "TIMEOUT": "job_time_limit",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "lost_node",
    "BOOT_FAIL": "lost_node",
}
_SOME_FAILED: Final = "some cases failed"
_OUT_OF_TIME: Final = "it stopped before its time limit"
_NODES_GONE: Final = "Slurm took a node from it that its runs need"
EXIT_NODES_GONE: Final = 6
# What dlperf's own exit codes say, as Slurm writes them (code:signal).
_OWN_CODES: Final = {
    "2:0": "wrong input, as its output says",
    "3:0": _SOME_FAILED,
    "5:0": "the infrastructure failed, as its output says",
    f"{EXIT_NODES_GONE}:0": _NODES_GONE,
    f"{128 + signal.SIGUSR1}:0": _OUT_OF_TIME,
}
# Words of a job's end, by Slurm's state.
ENDINGS: Final[Mapping[str, str]] = {
    "COMPLETED": "it ended by itself",
    "FAILED": "its command failed",
    "CANCELLED": "somebody cancelled it",
    "TIMEOUT": "it reached its time limit",
    "PREEMPTED": "another job took its place",
    "NODE_FAIL": "Slurm lost a node of it",
    "OUT_OF_MEMORY": "it ran out of memory",
    "BOOT_FAIL": "a node of it did not boot",
    "DEADLINE": "it reached its deadline",
    UNKNOWN: "Slurm does not say how it ended",
}

# What sbatch says, and what to do.
_REMEDIES: Final = (
    ("invalid partition", "`sinfo -s` lists partitions; set submit.partition"),
    ("Invalid account", "`sacctmgr show associations user=$USER` lists accounts; set submit.account"),
    ("Invalid generic resource", "the nodes have no such GPUs: `sinfo -o '%N %G'`; see submit.gpus"),
    ("Invalid feature", "`sinfo -o '%N %f'` lists features; see submit.constraint"),
    ("node configuration is not available", "no node has so many cores or GPUs: `sinfo -o '%N %c %G'`"),
    ("More processors requested", "no node has so many cores: `sinfo -o '%N %c'`"),
    ("Requested time limit is invalid", "`sinfo -o '%P %l'` lists limits; set submit.time"),
    ("Node count specification invalid", "the partition has fewer nodes: `sinfo -o '%P %D'`"),
    ("job submit limit", "you have too many jobs: `squeue --me`"),
)
# Reasons that no waiting changes, and what to do. Without EnforcePartLimits, sbatch takes such jobs.
_FOR_EVER: Final = {
    "PartitionTimeLimit": "`sinfo -o '%P %l'` lists limits; set submit.time",
    "PartitionNodeLimit": "`sinfo -o '%P %D %s'` lists how many nodes a job may take; see nodes",
    "BadConstraints": "no node has all that the job asks for: `sinfo -o '%N %c %G %f'`",
    "InvalidAccount": "set submit.account",
    "InvalidQOS": "set submit.qos",
}


# AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and others; some versions give
# the general words alone, which stand for other limits too.
_TOO_MANY: Final = re.compile(r"Submit\w*Limit|job submit limit")


class TooManyJobs(UserError):
    """Slurm takes no more jobs of this user now."""


class NoSlurm(UserError):
    """Slurm's tools are missing or do not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What Slurm says of a job."""

    state: str  # such as PENDING or NODE_FAIL; `unknown` where it says nothing
    reason: str = ""  # why it waits or ended; "" where there is none
    nodes: str = ""  # the names of its nodes as Slurm writes them, such as `n[1-2]`; "" while it waits
    is_forgotten: bool = False  # Slurm answers that it has no such job (any more)

    @property
    def is_alive(self) -> bool:
        """Whether it waits or works."""
        return self.state in _ALIVE

    @property
    def run_reason(self) -> str | None:
        """The reason of an outcome of the run that ended with it; None where a person or dlperf ended it."""
        return "job_time_limit" if _OUT_OF_TIME in self.reason else _TAKEN_AWAY.get(self.state)

    @property
    def ended_by_itself(self) -> bool:
        """Whether dlperf came to the end of its work."""
        return self.state == "COMPLETED" or _SOME_FAILED in self.reason

    @property
    def waits_for_ever(self) -> bool:
        """Whether it waits for what does not come."""
        return self.state == "PENDING" and self.reason in _FOR_EVER

    @property
    def remedy(self) -> str:
        """What to do about its reason; "" where nothing is known."""
        return _FOR_EVER.get(self.reason, "")

    @property
    def may_go_on(self) -> bool:
        """Whether a further job would do better: neither a person nor dlperf itself ended this one."""
        return self.state in _TAKEN_AWAY or any(words in self.reason for words in (_OUT_OF_TIME, _NODES_GONE))

    def __str__(self) -> str:
        if self.state == "PENDING":
            return f"waiting in the queue{f': {self.reason}' if self.reason else ''}"
        if self.is_alive:
            return f"{self.state.lower()} on {self.nodes or 'its nodes'}"
        said = f" ({self.reason})" if self.reason else ""
        return f"{self.state}: {ENDINGS.get(self.state, 'it ended')}{said}"


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of the batch system, of MPI launchers and of dlperf that would leak."""
    return {name: value for name, value in environment.items() if name in _KEPT or not _LEAKING.match(name)}


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    """A tool's answer; NoSlurm where it is missing or hangs."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=clean_environment(os.environ),
            timeout=_TOOL_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise NoSlurm(f"there is no {command[0]} here; run dlperf on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise NoSlurm(f"{command[0]} gave no answer within {_TOOL_SECONDS:g} s: is slurmctld up?") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def require_nodes(cluster: Cluster) -> None:
    """Raise UserError where the partition has fewer nodes than the job takes: it would wait for ever."""
    settings = cluster.slurm or SlurmSubmit()
    partition = ["-p", settings.partition] if settings.partition else []
    answer = _asked("sinfo", "-h", "-o", "%D|%P|%a", *partition)
    if answer.returncode != 0:
        raise NoSlurm(f"sinfo: {_one_line(answer.stderr) or 'failed'}; is this a login node of the cluster?")
    rows = [fields for line in answer.stdout.splitlines() if len(fields := line.split("|")) == len("DPa")]
    if settings.partition is None:
        rows = [row for row in rows if row[1].endswith("*")] or rows
    if not rows:
        known = _one_line(_asked("sinfo", "-h", "-o", "%R").stdout)
        raise UserError(f"{cluster.path}: there is no partition {settings.partition!r}; there is {known}")
    count, wanted = sum(int(row[0]) for row in rows), len(cluster.nodes)
    if count < wanted:
        name = rows[0][1].rstrip("*")
        raise UserError(
            f"{cluster.path}: nodes: {wanted}, but partition {name} has {count}: the job would wait for ever"
        )


def longest_array() -> int:
    """How many jobs an array may have here; UserError where there are no arrays."""
    answer = _asked("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    if found is None:
        said = _one_line(answer.stderr) or "does not say MaxArraySize"
        raise NoSlurm(f"scontrol show config: {said}; is this a login node of the cluster?")
    if found[1] == "0":
        raise UserError("this Slurm has no arrays of jobs (MaxArraySize=0); use 'allocate: held'")
    return int(found[1])


def script(
    cluster: Cluster,
    *,
    name: str,
    log: Path,
    command: Sequence[str],
    folder: Path,
    tasks: Sequence[str] = (),
    after: str | None = None,
) -> str:
    """The batch script that runs `command` in `folder`, with its messages appended to `log`.

    With `tasks` an array of jobs: each has words of its own, without any that the shell would change, behind
    those of the command. It starts when all jobs of the array `after` have ended.
    """
    settings, node = cluster.slurm or SlurmSubmit(), cluster.nodes[0]
    options = {
        "job-name": f"dlperf-{name}",
        # Its summary is printed by the command that follows it.
        "output": "/dev/null",
        "error": str(log),
        "open-mode": "append",
        "nodes": str(len(cluster.nodes)),
        "ntasks-per-node": "1",
        "cpus-per-task": str(node.cores),
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": None if settings.time is None else str(math.ceil(settings.time / 60)),
        "constraint": settings.constraint,
        # Bound to the batch shell, which the command replaces.
        "signal": f"B:USR1@{_SIGNAL_SECONDS}",
    }
    if node.device == "cuda" and settings.gpus == "gres":
        options["gres"] = f"gpu:{node.devices}"
    if node.device == "cuda" and settings.gpus == "gpus_per_node":
        options["gpus-per-node"] = str(node.devices)
    if tasks:
        most = settings.parallel_jobs
        options["array"] = f"0-{len(tasks) - 1}" + (f"%{most}" if most is not None else "")
        options["dependency"] = None if after is None else f"afterany:{after}"
    # Whole nodes come with the default memory of a job unless all of it is asked for.
    whole = ["--exclusive", "--mem=0"] if settings.exclusive else []
    flags = ["--no-requeue", "--no-kill", *whole, *settings.extra]
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    lines = [f"#SBATCH {shlex.quote(option)}" for option in (*given, *flags)]
    of_tasks = ["tasks=(", *(f"    {shlex.quote(words)}" for words in tasks), ")"] if tasks else []
    words = f"{shlex.join(command)} ${{tasks[$SLURM_ARRAY_TASK_ID]}}" if tasks else shlex.join(command)
    go = f"cd {shlex.quote(str(folder))} || exit 5"
    return "\n".join(("#!/bin/bash", *lines, *of_tasks, go, f"exec {words}", ""))


def submit(path: Path, *, name: str) -> str:
    """Submit a batch script under a name; the job's number.

    UserError with what to do where Slurm refuses it; NoSlurm where sbatch does not answer.
    """
    answer = _asked("sbatch", "--parsable", f"--job-name={name}", str(path))
    number = (answer.stdout.split() or [""])[-1].partition(";")[0]
    if answer.returncode == 0 and number.isdigit():
        return number
    said = _one_line(answer.stderr.replace("sbatch: error: ", "")) or "no reason given"
    remedy = next((text for words, text in _REMEDIES if words.casefold() in said.casefold()), None)
    kind = TooManyJobs if _TOO_MANY.search(said) else UserError
    raise kind(f"sbatch refuses the job: {said}{f'; {remedy}' if remedy else ''}")


def tasks_in_queue(number: str) -> dict[int, JobState]:
    """The jobs of an array that wait or work, by their number in it; NoSlurm where Slurm does not say."""
    answer = _asked("squeue", "-h", "-r", "-j", number, "-o", "%K|%T|%r|%N")
    if answer.returncode != 0 and not _FORGOTTEN.search(answer.stderr):
        raise NoSlurm(f"squeue: {_one_line(answer.stderr) or 'failed'}")
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    return {
        int(index): JobState(state=state, reason="" if reason == "None" else reason, nodes=nodes)
        for index, state, reason, nodes in (row for row in rows if len(row) == len("KTrN"))
        if index.isdigit() and state in _ALIVE
    }


def job_named(name: str) -> str | None:
    """The number of the job of this name, waiting, at work or ended; None where Slurm knows none.

    NoSlurm where it does not answer.
    """
    queue = _asked("squeue", "-h", "--states=all", f"--name={name}", "-o", "%F")
    if queue.returncode != 0:
        raise NoSlurm(f"squeue: {_one_line(queue.stderr) or 'failed'}: is slurmctld up?")
    found = queue.stdout.split()
    if not found:  # without accounts it has no more to say
        found = _asked(
            "sacct", "-n", "-P", "-X", "-S", "now-7days", f"--name={name}", "-o", "JobID"
        ).stdout.split()
    return found[0].partition("_")[0] if found else None  # of an array, one for each of its jobs


def cancel(number: str) -> None:
    """End a job."""
    _asked("scancel", number)


def job_state(number: str, *, attempts: int = ATTEMPTS) -> JobState:
    """What Slurm says of a job; `unknown` where it says nothing after some attempts."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        forgotten = None
        for ask in (_from_queue, _from_controller, _from_accounting):
            try:
                state = ask(number)
            except NoSlurm:
                continue
            if state is not None and not state.is_forgotten:
                return state
            forgotten = forgotten or state
        if forgotten is not None:
            return forgotten
    return JobState(state=UNKNOWN)


def _from_queue(number: str) -> JobState | None:
    """Jobs that have ended are not in the queue."""
    answer = _asked("squeue", "-h", "-j", number, "-o", "%T|%r|%N")
    state, *others = answer.stdout.strip().split("|")
    if answer.returncode != 0 or not others or state not in _ALIVE:
        return None
    return JobState(state=state, reason="" if others[0] == "None" else others[0], nodes=others[-1])


def _from_controller(number: str) -> JobState | None:
    """Ended jobs too, for some minutes (MinJobAge)."""
    answer = _asked("scontrol", "-o", "show", "job", number)
    found = dict(re.findall(r"(\w+)=(\S*)", answer.stdout))
    if _FORGOTTEN.search(answer.stderr):
        return JobState(state=UNKNOWN, is_forgotten=True)
    if answer.returncode != 0 or "JobState" not in found:
        return None
    said = [found.get("Reason", ""), _code(found.get("ExitCode", ""))]
    return JobState(state=found["JobState"], reason=_listed(said), nodes=found.get("NodeList", ""))


def _from_accounting(number: str) -> JobState | None:
    """Jobs of any age, where Slurm keeps accounts."""
    fields = "State,ExitCode,DerivedExitCode,Reason,NodeList"
    answer = _asked("sacct", "-n", "-P", "-X", "-j", number, "-o", fields)
    told, *others = answer.stdout.partition("\n")[0].split("|")
    if answer.returncode != 0 or not told or len(others) + 1 != len(fields.split(",")):
        return None
    state, _, who = told.partition(" ")  # `CANCELLED by 1000`
    code, derived, reason, nodes = others
    said = [_user(who), reason, _code(code), _code(derived) if derived != code else ""]
    return JobState(state=state, reason=_listed(said), nodes="" if nodes == "None assigned" else nodes)


def _user(who: str) -> str:
    """Whom `by 1000` means."""
    number = who.removeprefix("by ")
    try:
        return f"by {pwd.getpwuid(int(number)).pw_name}"
    except (KeyError, ValueError, OverflowError):
        return who and f"by user {number}"


def _code(code: str) -> str:
    return "" if code in ("", "0:0") else _OWN_CODES.get(code, f"exit code {code}")


def _listed(said: Sequence[str]) -> str:
    return ", ".join(text for text in said if text not in ("", "None", "NonZeroExitCode"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The job that this process runs in."""

    job: str  # its number
    addresses: dict[str, str]  # its nodes in Slurm's order -> where ranks of other nodes reach them
    features: dict[str, str]  # by node, as Slurm lists them
    ends_at: float | None  # when it ends, as time.monotonic() counts; None where it has no limit


def inside() -> bool:
    """Whether this process runs in a job of Slurm."""
    return "SLURM_JOB_ID" in os.environ


def allocation() -> Allocation:
    """The job that this process runs in; InfrastructureError where Slurm does not describe it."""
    job = os.environ["SLURM_JOB_ID"]
    listed = os.environ.get("SLURM_JOB_NODELIST", "")
    names = _asked("scontrol", "show", "hostnames", listed).stdout.split() if listed else []
    if not names:
        raise InfrastructureError(f"job {job}: Slurm does not say which nodes it has")
    described = _asked("scontrol", "-o", "show", "node", listed).stdout
    addresses, features = {name: name for name in names}, dict.fromkeys(names, "")
    for line in described.splitlines():
        found = dict(re.findall(r"(\w+)=(\S*)", line))
        name = found.get("NodeName", "")
        if name in addresses:
            addresses[name] = found.get("NodeAddr") or name
            features[name] = found.get("ActiveFeatures", "").replace("(null)", "")
    return Allocation(job=job, addresses=addresses, features=features, ends_at=_ends_at(_own_name()))


def _own_name() -> str:
    """What to ask of the job that this process runs in: an array and its last job have one number."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def has_node(node: str) -> bool:
    """Whether this process's job has a node, which it loses for good when Slurm sets it down or ends the job.

    What a job has started may outlive it where the slurmd of its node is gone. True where Slurm does not say.
    """
    state = job_state(_own_name(), attempts=1)
    if not state.is_alive:
        return state.state == UNKNOWN and not state.is_forgotten
    try:
        names = _asked("scontrol", "show", "hostnames", state.nodes).stdout.split() if state.nodes else []
    except NoSlurm:
        return True
    return not names or node in names


def _ends_at(job: str) -> float | None:
    """`squeue`'s %L is `[days-]hours:minutes:seconds`, UNLIMITED or INVALID."""
    left = _asked("squeue", "-h", "-j", job, "-o", "%L").stdout.strip()
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", left)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return time.monotonic() + ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def step_command(job: str, node: str, *, container: Container | None = None) -> list[str]:
    """What starts a program as the one long step of a job on a node; the program's words follow.

    It needs no variable of the job: run it in `clean_environment`, so that none of an outer step changes it.
    The step has all cores and GPUs of the job there: --cpus-per-task would choose some, perhaps two of each
    core. Binding is dlperf's own: without --cpu-bind=none Slurm may give the step one core.
    """
    return [
        "srun",
        f"--jobid={job}",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={node}",
        "--cpu-bind=none",
        "--no-kill",
        "--input=all",
        "--unbuffered",
        "--quiet",
        *(_container_words(container) if container is not None else ()),
    ]


def _container_words(container: Container) -> list[str]:
    """Of pyxis further options of srun, of apptainer the command before the program."""
    if container.runtime == "pyxis":
        mounts = ",".join(f"{folder}:{folder}" for folder in container.mounts)
        options = [f"--container-image={container.image}", "--container-writable"]
        return [*options, *([f"--container-mounts={mounts}"] if mounts else [])]
    binds = [f"--bind={folder}" for folder in container.mounts]
    return ["apptainer", "exec", *binds, container.image]


def this_command() -> list[str]:
    """The command that this process was started as, for a job: the same Python, the same words."""
    return [sys.executable, "-m", "dlperf", *(word for word in sys.argv[1:] if word != "--dry-run")]
