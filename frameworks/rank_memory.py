"""The memory of a rank: what it may take, and whether the kernel has killed it for lack of any.

For the supervisor. docs/limits.md says what counts, docs/reliability.md, "Killed for lack of memory?",
what tells a kill by the kernel from another.
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
# Of the control group of a rank: the guard's process id, the namespace of that, the rank.
_GROUP_NAME = re.compile(r"dlperf-(\d+)-(\d+)-rank\d+")
# Longer than from making a group to the first process in it.
DESERTED_SECONDS = 60.0
# The kernel's number of the control group namespace that the machine begins with.
_FIRST_NAMESPACE = "cgroup:[4026531835]"


def own_groups() -> Dict[str, str]:
    """The control group of this process by controller; version 2's stands under ""."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _memory_group() -> Optional[Tuple[Path, Path]]:
    """Our own group of version 1's memory controller, and where that is mounted; None where there is none."""
    path, top = own_groups().get("memory"), Path("/sys/fs/cgroup/memory")
    if path is None or not top.is_dir():
        return None
    own = top / path.lstrip("/")
    # In a container the path may be one that the host sees; its own group is the root of what it sees.
    return (own if own.is_dir() else top), top


def _unified_group() -> Optional[Tuple[Path, Path]]:
    """Likewise of version 2."""
    path, top = own_groups().get(""), Path("/sys/fs/cgroup")
    return None if path is None else (top / path.lstrip("/"), top)


def memory_parents(*, beside: bool) -> List[Tuple[Path, str]]:
    """Where a group of a rank may be made, and the name of the file that holds a limit there.

    Below our own group, so that whatever limits us limits the ranks too. In version 2 a group that holds
    processes has no groups with limits below it (the root has): `beside` allows one beside our own, where
    that has no limit of its own to be evaded.
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
    """How many processes the kernel of this machine has killed for lack of memory; 0 where it is silent."""
    return _count(Path("/proc/vmstat")) or 0


def group_oom_kills() -> Optional[int]:
    """How many of our own control group; None where that is the whole machine, or nothing is counted."""
    second = _unified_group()
    if second is not None and (found := _count(second[0] / "memory.events")) is not None:
        return found  # the root has no such file
    first = _memory_group()
    if first is None or (first[0] == first[1] and _in_first_namespace()):
        return None
    return _count(first[0] / "memory.oom_control")


def _in_first_namespace() -> bool:
    """Whether the root of the groups that we see is the machine's own."""
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
    """A control group of a rank's own where one can be made, and its budget where it has one.

    The group counts what the kernel kills in it for lack of memory, wherever it is short: that tells a rank
    that was killed for it from one that was killed otherwise. It holds the budget too: what is resident
    counts, of the rank and its children, and the kernel ends what goes beyond. Without a group RLIMIT_DATA
    counts the private memory that each process may write to, resident or not, and refuses more. RLIMIT_AS
    would count the address space that the engines reserve and never touch.
    """

    def __init__(self, name: str, *, budget: Optional[int]) -> None:
        """Make the group `name` if that can be done; `budget` in bytes.

        A rank without a budget is left in our own group rather than put beside it, where it would be out of
        reach of what else limits us.
        """
        self.budget = budget
        self.oom_kills: Optional[int] = None  # of the group's processes; known when it is closed
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
        """Set the limit and try whether a process of ours can join."""
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
        """How outcome.json calls what holds the budget; None without one."""
        if self.budget is None:
            return None
        return "rlimit_data" if self.group is None else "cgroup"

    def enter(self) -> None:
        """Put this process, which becomes the rank, there; OSError, ValueError where it fails."""
        if self.group is not None:
            (self.group / "cgroup.procs").write_text("0")
        elif self.budget is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (self.budget, self.budget))

    def close(self) -> None:
        """Count what the kernel has killed in the group, whose processes are gone, and remove it."""
        if self.group is None:
            return
        counts = [_count(self.group / name) for name in ("memory.events", "memory.oom_control")]
        self.oom_kills = next((count for count in counts if count is not None), None)
        remove_group(self.group)


def _set_limit(group: Path, limit: str, size: int) -> None:
    """Set it, swap included."""
    (group / limit).write_text(str(size))
    for name, value in (("memory.memsw.limit_in_bytes", str(size)), ("memory.swap.max", "0")):
        if (group / name).exists():
            (group / name).write_text(value)


def remove_group(group: Path) -> None:
    """Remove an empty control group; the kernel may take a moment to see that it is."""
    deadline = time.monotonic() + GROUP_LIMIT_SECONDS
    while group.is_dir() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(POLL_SECONDS)


def remove_left_groups(*, mine: bool) -> None:
    """Remove groups of supervisors that are gone; with `mine` those that this guard's supervisor has left."""
    us = (os.getpid(), _namespace())
    for parent, _ in memory_parents(beside=True):
        for group in parent.glob("dlperf-*"):
            match = _GROUP_NAME.fullmatch(group.name)
            if match is not None:
                owner = (int(match[1]), int(match[2]))
                if owner == us if mine else _is_left(group, owner):
                    remove_group(group)


def _is_left(group: Path, owner: Tuple[int, int]) -> bool:
    """Whether nobody will use it any more. Of another container we do not see who lives, but who works."""
    pid, namespace = owner
    if namespace == _namespace():
        return not Path("/proc", str(pid)).exists()
    try:
        return time.time() - group.stat().st_mtime > DESERTED_SECONDS and not _text(group / "cgroup.procs")
    except OSError:
        return False


def _namespace() -> int:
    """The number of the namespace that our process ids are of: containers may share the control groups."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  not the link itself
    except OSError:  # a /proc of other processes than ours: no group is known there either
        return 0


def group_name(guard: int, rank: int) -> str:
    """Of the group of a rank whose supervisor has the guard `guard`."""
    return f"dlperf-{guard}-{_namespace()}-rank{rank}"
