"""What a program finds on its node beside its devices: limits, disks. Linux alone."""

import os
import resource
import secrets
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from frameworks.common.page_cache import Span, drop, file_system
from frameworks.node.condition import space

_CHUNK_BYTES = 4 << 20
_SHARE_OF_FREE = 4  # a file takes at most a quarter of what is free


def limits(folder: Path, data: Optional[Path]) -> Dict[str, Any]:
    """Of this process and its node; `None` where there is no limit, or it is not known."""
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    shared = space("/dev/shm")  # noqa: S108  its size is what is asked for
    return {
        "memlock_bytes": None if locked == resource.RLIM_INFINITY else locked,
        "shared_memory_bytes": None if shared is None else shared["total_bytes"],
        "file_system": file_system(str(folder)),
        "data_file_system": None if data is None else file_system(str(data)),
    }


def disk_rates(folder: Path, *, most_bytes: int, seconds: float) -> Tuple[float, float]:
    """Bytes per second that a new file in `folder` is written and flushed with, then read from the disk.

    The file has random content, takes at most `most_bytes` and a quarter of what is free, and is removed.
    Writing and reading end after about `seconds` each. A file system in memory has no disk to read from.

    Raises:
        OSError: the folder cannot be written to, or has no space.
    """
    room = os.statvfs(folder)
    size = min(most_bytes, room.f_bavail * room.f_frsize // _SHARE_OF_FREE) // _CHUNK_BYTES * _CHUNK_BYTES
    if size == 0:
        raise OSError(f"{folder}: less than {_SHARE_OF_FREE * _CHUNK_BYTES >> 20} MiB free")
    content = secrets.token_bytes(_CHUNK_BYTES)  # some file systems compress
    path = folder / f".measured-{os.getpid()}"
    try:
        with path.open("xb", buffering=0) as stream:
            start = time.perf_counter()
            while stream.tell() < size and time.perf_counter() - start < seconds:
                stream.write(content)
                os.fsync(stream.fileno())
            written = stream.tell() / (time.perf_counter() - start)
        return written, read_rate([path], most_bytes=size, seconds=seconds)
    finally:
        path.unlink()


def read_rate(paths: List[Path], *, most_bytes: int, seconds: float) -> float:
    """Bytes per second that files, one after the other, are read with after the page cache has lost them.

    Reading ends after `most_bytes`, or about `seconds`.

    Raises:
        OSError: a file cannot be read, or all are empty.
    """
    chosen: List[Tuple[Path, int]] = []
    for path in paths:
        left = most_bytes - sum(size for _, size in chosen)
        if left > 0:
            chosen.append((path, min(left, path.stat().st_size)))
    drop(Span(str(path), 0, size) for path, size in chosen)
    done, start = 0, time.perf_counter()
    for path, size in chosen:
        with path.open("rb", buffering=0) as stream:
            while stream.tell() < size and time.perf_counter() - start < seconds:
                done += len(stream.read(min(_CHUNK_BYTES, size - stream.tell())) or b"")
    if done == 0:
        raise OSError("nothing to read")
    return done / (time.perf_counter() - start)


def files_below(folder: Path, *, most_bytes: int) -> List[Path]:
    """The first regular files below a folder, by name, that hold `most_bytes` together, or all of them."""
    found: List[Path] = []
    total = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if total < most_bytes and path.is_file() and not path.is_symlink():
                found.append(path)
                total += path.stat().st_size
        if total >= most_bytes:
            break
    return found
