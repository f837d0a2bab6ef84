"""What the control groups above this process allow it, in version 1 or 2."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Version 1 writes a huge number for "no limit" (2^63 rounded to pages).
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """The tightest limits; None where there is none."""

    cpus: float | None  # CPU seconds a second
    memory_bytes: int | None


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """The limits of this process; `root` is where /proc and /sys lie."""
    cpus, memory = [], []
    for folder in _groups(root):
        cpus += [quota for quota in (_cpus_2(folder), _cpus_1(folder)) if quota is not None]
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and limit < _NO_LIMIT_BYTES:
                memory.append(limit)
    return CgroupLimits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that hold this process and of all above them."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for top in [mount / name for name in controllers.split(",")] if controllers else [mount]:
            folder = top / path.lstrip("/")
            while folder.is_relative_to(top):
                yield folder
                if folder == top:
                    break
                folder = folder.parent


def _cpus_2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":  # noqa: PLR2004  quota and period
        return None
    return int(words[0]) / int(words[1])


def _cpus_1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path))
    return None


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip()
    return ""
