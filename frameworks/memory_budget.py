"""The memory that a rank may take, held by the kernel. For the supervisor; docs/limits.md has what counts."""

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

GROUP_LIMIT_SECONDS = 2.0
POLL_SECONDS = 0.02
# Of the control groups of ranks; the process id of the guard follows.
GROUP_PREFIX = "dlperf-"


def own_groups() -> Dict[str, str]:
    """The control group of this process by controller; version 2's stands under ""."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def memory_parents() -> List[Tuple[Path, str]]:
    """Where a group with a memory limit may be made, and the name of the file that holds the limit.

    Below our own group, so that whatever limits us limits the ranks too. In version 2 a group that holds
    processes has no groups with limits below it (the root has): there it is beside our own, where that has no
    limit of its own to be evaded.
    """
    groups, parents = own_groups(), []
    if "memory" in groups:
        top = Path("/sys/fs/cgroup/memory")
        own = top / groups["memory"].lstrip("/")
        # In a container the path may be one that the host sees; its own group is the root of what it sees.
        parents.append((own if own.is_dir() else top, "memory.limit_in_bytes"))
    if "" in groups:
        top = Path("/sys/fs/cgroup")
        own = top / groups[""].lstrip("/")
        beside = [own.parent] if own != top and _text(own / "memory.max") == "max" else []
        parents += [
            (parent, "memory.max")
            for parent in (own, *beside)
            if "memory" in _text(parent / "cgroup.subtree_control").split()
        ]
    return parents


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


class MemoryBudget:
    """What a rank may take of the memory: a control group where one can be made, else a limit of the process.

    A group counts what is resident, of the rank and its children; the kernel ends what goes beyond. Without
    one RLIMIT_DATA counts the private memory that each process may write to, resident or not, and refuses
    more. RLIMIT_AS would count the address space that the engines reserve and never touch.
    """

    def __init__(self, size: int, name: str) -> None:
        """Make the group `name` if that can be done."""
        self.size = size
        self.oom_kills = 0  # known when it is closed
        self.group: Optional[Path] = None
        for parent, limit in memory_parents():
            group = parent / name
            try:
                group.mkdir()
            except OSError:
                continue
            if self._fits(group, limit):
                self.group = group
                return
            remove_group(group)

    def _fits(self, group: Path, limit: str) -> bool:
        """Set the limit, swap included, and try whether a process of ours can join."""
        try:
            (group / limit).write_text(str(self.size))
            for name, value in (("memory.memsw.limit_in_bytes", str(self.size)), ("memory.swap.max", "0")):
                if (group / name).exists():
                    (group / name).write_text(value)
        except OSError:
            return False
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(OSError):
                (group / "cgroup.procs").write_text("0")
                code = 0
            os._exit(code)
        return os.waitpid(child, 0)[1] == 0

    @property
    def held_by(self) -> str:
        """How outcome.json calls it."""
        return "rlimit_data" if self.group is None else "cgroup"

    def enter(self) -> None:
        """Put this process, which becomes the rank, under the budget; OSError, ValueError where it fails."""
        if self.group is None:
            resource.setrlimit(resource.RLIMIT_DATA, (self.size, self.size))
        else:
            (self.group / "cgroup.procs").write_text("0")

    def close(self) -> None:
        """Count what the kernel has killed in the group, whose processes are gone, and remove it."""
        if self.group is None:
            return
        for name in ("memory.events", "memory.oom_control"):
            words = [line.split() for line in _text(self.group / name).splitlines()]
            self.oom_kills += sum(int(line[1]) for line in words if line[0] == "oom_kill")
        remove_group(self.group)


def remove_group(group: Path) -> None:
    """Remove an empty control group; the kernel may take a moment to see that it is."""
    deadline = time.monotonic() + GROUP_LIMIT_SECONDS
    while group.is_dir() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(POLL_SECONDS)


def remove_left_groups(*, mine: bool) -> None:
    """Remove groups of supervisors that are gone, or with `mine` those of this one."""
    for parent, _ in memory_parents():
        for group in parent.glob(GROUP_PREFIX + "*-*"):
            pid = group.name[len(GROUP_PREFIX) :].partition("-")[0]
            if pid == str(os.getpid()) if mine else not Path("/proc", pid).exists():
                remove_group(group)
