"""What of a file lies in the page cache, and how to change that; what processes have read. Linux alone."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Dict, Iterable, NamedTuple, Optional

_CHUNK_BYTES = 8 << 20
# The kernel keeps pages in blocks of up to this size, and drops no part of a block.
_BLOCK_BYTES = 2 << 20
# Mapped at a time: small enough for any limit of the address space.
_WINDOW_BYTES = 256 << 20


class Span(NamedTuple):
    """Bytes `begin` to `end` - 1 of a file."""

    file: str
    begin: int
    end: int


def drop(spans: Iterable[Span]) -> None:
    """Drop the spans, and what shares blocks with them, from the page cache, once they are on the disk."""
    for span in spans:
        descriptor = os.open(span.file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # dirty pages are not dropped
            begin = span.begin - span.begin % _BLOCK_BYTES
            length = span.end - begin + -span.end % _BLOCK_BYTES
            os.posix_fadvise(descriptor, begin, length, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm(spans: Iterable[Span]) -> None:
    """Read the spans once."""
    for span in spans:
        with Path(span.file).open("rb", buffering=0) as stream:
            for begin in range(span.begin, span.end, _CHUNK_BYTES):
                os.pread(stream.fileno(), min(_CHUNK_BYTES, span.end - begin), begin)


def resident_share(spans: Iterable[Span]) -> Optional[float]:
    """The share of the pages that lie in the page cache, from 0 to 1; None where the kernel does not say.

    It says so only to a file's owner, and to those who may write it.
    """
    found = total = 0
    for span in spans:
        if not (os.access(span.file, os.W_OK) or Path(span.file).stat().st_uid == os.geteuid()):
            return None
        for begin in range(span.begin - span.begin % mmap.PAGESIZE, span.end, _WINDOW_BYTES):
            count, pages = _resident_pages(span.file, begin, min(_WINDOW_BYTES, span.end - begin))
            if count is None:
                return None
            found, total = found + count, total + pages
    return found / total if total else None


def _resident_pages(path: str, begin: int, length: int) -> "tuple[Optional[int], int]":
    pages = -(-length // mmap.PAGESIZE)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    states = ctypes.create_string_buffer(pages)
    with Path(path).open("rb") as stream:
        # Copy on write: ctypes takes the address of nothing that is read-only. Nothing is written.
        view = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
        with view:
            first = ctypes.c_char.from_buffer(view)
            failed = mincore(ctypes.addressof(first), length, states)
            del first  # else the mapping cannot be closed
    if failed:
        return None, pages
    return sum(state & 1 for state in states.raw), pages


def file_system(path: str) -> Optional[str]:
    """The type of the file system that holds a path, such as `ext4` or `nfs4`; None if not known."""
    real = os.path.realpath(path)
    best, kind = "", None
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        _, place, name, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, name
    return kind


class BytesRead(NamedTuple):
    """Bytes that processes have read: by system calls from anywhere, and from storage."""

    calls: int
    storage: int


def reading_event(
    seconds: float, wait_seconds: Optional[float], read: Optional[BytesRead]
) -> "Dict[str, Optional[float]]":
    """The value of the event `reading` of a window; null is what is not known."""
    return {
        "seconds": round(seconds, 6),
        "wait_seconds": None if wait_seconds is None else round(wait_seconds, 6),
        "read_bytes": None if read is None else read.calls,
        "storage_bytes": None if read is None else read.storage,
        "read_mib_per_second": None if read is None else round(read.calls / seconds / 2**20, 3),
    }


def bytes_read(pids: Iterable[int]) -> Optional[BytesRead]:
    """What the processes have read since their start; None where the kernel does not count it."""
    calls = storage = 0
    try:
        for pid in pids:
            lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
            counts = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
            calls, storage = calls + counts["rchar"], storage + counts["read_bytes"]
    except (OSError, ValueError, KeyError):
        return None
    return BytesRead(calls, storage)
