"""The memory of a rank: its budget, and whether the kernel killed it for lack of memory. For the supervisor.

docs/limits.md says what counts; docs/reliability.md, "Killed for lack of memory?", how such a kill is
recognised.
"""

import contextlib
import os
import re
import resource
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

GROUP_LIMIT_SECONDS = 2.0
POLL_SECONDS = 0.02
# The control group of a rank: the guard's process id, its namespace, the rank.
_GROUP_NAME = re.compile(r"dlperf-(\d+)-(\d+)-rank\d+")
# Longer than it takes from creating a group to the first process in it.
DESERTED_SECONDS = 60.0
# The kernel's number of the initial control group namespace.
_FIRST_NAMESPACE = "cgroup:[4026531835]"


def own_groups() -> Dict[str, str]:
    """The control group of this process by controller; the key "" is for version 2."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _memory_group() -> Optional[Tuple[Path, Path]]:
    """Our own group of version 1's memory controller, and its mount point; None if there is none."""
    path, top = own_groups().get("memory"), Path("/sys/fs/cgroup/memory")
    if path is None or not top.is_dir():
        return None
    own = top / path.lstrip("/")
    # In a container the path may be the host's; the container's own group is the root of what it sees.
    return (own if own.is_dir() else top), top


def _unified_group() -> Optional[Tuple[Path, Path]]:
    """The same for version 2."""
    path, top = own_groups().get(""), Path("/sys/fs/cgroup")
    return None if path is None else (top / path.lstrip("/"), top)


def memory_parents(*, beside: bool) -> List[Tuple[Path, str]]:
    """Where a rank's group may be created, and the name of the file that holds a limit there.

    Below our own group, so that our limits hold for the ranks too. In version 2 a group with processes in it
    cannot have groups with limits below it, except for the root: `beside` allows one next to our own, if our
    own has no limit that it would evade.
    """
    parents = []
    first, second = _memory_group(), _unified_group()
    if first is not None and _text(first[0] / "memory.use_hierarchy") != "0":
        parents.append((first[0], "memory.limit_in_bytes"))
    if second is not None:
        own, top = second
        free = beside and own != top and _text(own / "memory.max") == "max"
        parents += [
            (parent, "memory.max")
            for parent in ((own, own.parent) if free else (own,))
            if "memory" in _text(parent / "cgroup.subtree_control").split()
        ]
    return parents


def node_oom_kills() -> int:
    """How many processes this machine's kernel has killed for lack of memory; 0 if it does not say."""
    return _count(Path("/proc/vmstat")) or 0


def group_oom_kills() -> Optional[int]:
    """The same in our own control group; None if that is the whole machine, or nothing is counted."""
    second = _unified_group()
    if second is not None and (found := _count(second[0] / "memory.events")) is not None:
        return found  # the root has no such file
    first = _memory_group()
    if first is None or (first[0] == first[1] and _in_first_namespace()):
        return None
    return _count(first[0] / "memory.oom_control")


def _in_first_namespace() -> bool:
    """Whether the root of the control groups that we see is the machine's."""
    try:
        return os.readlink("/proc/self/ns/cgroup") == _FIRST_NAMESPACE
    except OSError:
        return True


def _count(path: Path) -> Optional[int]:
    words = [line.split() for line in _text(path).splitlines()]
    return next((int(line[1]) for line in words if line[0] == "oom_kill"), None)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


class RankMemory:
    """A rank's own control group, if one can be created, and its budget, if it has one.

    The group counts the processes in it that the kernel killed for lack of memory, whatever limit was
    reached: so we can tell such a rank from one that was killed for another reason. The group also enforces
    the budget: it counts the resident memory of the rank and its children, and the kernel kills what exceeds
    it. Without a group RLIMIT_DATA counts the private writable memory of each process, resident or not, and
    refuses more. RLIMIT_AS would count address space that the engines reserve and never use.
    """

    def __init__(self, name: str, *, budget: Optional[int]) -> None:
        """Create the group `name` if possible; `budget` in bytes.

        A rank without a budget stays in our own group if the only place is next to it, where our other limits
        would not hold for the rank.
        """
        self.budget = budget
        self.oom_kills: Optional[int] = None  # in the group; known after close
        self.group: Optional[Path] = None
        for parent, limit in memory_parents(beside=budget is not None):
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
        """Set the limit and test whether a process of ours can join."""
        try:
            if self.budget is not None:
                _set_limit(group, limit, self.budget)
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
    def held_by(self) -> Optional[str]:
        """What enforces the budget, as in outcome.json; None without a budget."""
        if self.budget is None:
            return None
        return "rlimit_data" if self.group is None else "cgroup"

    def enter(self) -> None:
        """Put this process, which becomes the rank, into it; OSError or ValueError if that fails."""
        if self.group is not None:
            (self.group / "cgroup.procs").write_text("0")
        elif self.budget is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (self.budget, self.budget))

    def close(self) -> None:
        """Read how often the kernel killed in the group, whose processes are gone, and remove it."""
        if self.group is None:
            return
        counts = [_count(self.group / name) for name in ("memory.events", "memory.oom_control")]
        self.oom_kills = next((count for count in counts if count is not None), None)
        remove_group(self.group)


def _set_limit(group: Path, limit: str, size: int) -> None:
    """Set it, including swap."""
    (group / limit).write_text(str(size))
    for name, value in (("memory.memsw.limit_in_bytes", str(size)), ("memory.swap.max", "0")):
        if (group / name).exists():
            (group / name).write_text(value)


def remove_group(group: Path) -> None:
    """Remove an empty control group; the kernel may need a moment to notice that it is empty."""
    deadline = time.monotonic() + GROUP_LIMIT_SECONDS
    while group.is_dir() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(POLL_SECONDS)


def remove_left_groups(*, mine: bool) -> None:
    """Remove groups of supervisors that are gone; with `mine`, those of this guard's own supervisor."""
    us = (os.getpid(), _namespace())
    for parent, _ in memory_parents(beside=True):
        for group in parent.glob("dlperf-*"):
            match = _GROUP_NAME.fullmatch(group.name)
            if match is not None:
                owner = (int(match[1]), int(match[2]))
                if owner == us if mine else _is_left(group, owner):
                    remove_group(group)


def _is_left(group: Path, owner: Tuple[int, int]) -> bool:
    """Whether no one uses it any more. In another container we see only processes that are in a group."""
    pid, namespace = owner
    if namespace == _namespace():
        return not Path("/proc", str(pid)).exists()
    try:
        return time.time() - group.stat().st_mtime > DESERTED_SECONDS and not _text(group / "cgroup.procs")
    except OSError:
        return False


def _namespace() -> int:
    """The namespace of our process ids: containers may share the control groups."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  not the link itself
    except OSError:  # a /proc that does not show us: it knows no group of ours either
        return 0


def group_name(guard: int, rank: int) -> str:
    """The name of a rank's group, by the process id of its supervisor's guard."""
    return f"dlperf-{guard}-{_namespace()}-rank{rank}"
