"""A fingerprint of what a run's figures are made from, so that a report can say what it was made from."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIGITS = 16
_CHUNK = 1 << 16
# A report reads thousands of these files: plain names in place of a Path each halve the time.
_SOURCES = ("case.json", "outcome.json", "import.json")


def run_digest(folder: Path) -> str:
    """First 16 hexadecimal digits of SHA-256 over the names and contents of a run's sources.

    The sources are `case.json`, `outcome.json`, `import.json` and the files of `logs/`, as far as they are
    there; what is made from them (`result.json`, `steps.csv`) does not count.
    """
    digest = hashlib.sha256()
    place = str(folder)
    sources = [name for name in os.listdir(place) if name in _SOURCES]  # noqa: PTH208
    for name in (*sorted(sources), *_logs(place)):
        digest.update(f"{name} {_digest_of(f'{place}/{name}')}\n".encode())
    return digest.hexdigest()[:_DIGITS]


def _logs(place: str) -> list[str]:
    try:
        return [f"logs/{name}" for name in sorted(os.listdir(f"{place}/logs"))]  # noqa: PTH208
    except FileNotFoundError:
        return []


def _digest_of(path: str) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
    finally:
        os.close(descriptor)
    return digest.hexdigest()
