"""A fingerprint of what a run's figures are made from, so that a report can say what it was made from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIGITS = 16
_SOURCES = ("case.json", "outcome.json", "import.json")


def run_digest(folder: Path) -> str:
    """First 16 hexadecimal digits of SHA-256 over the names and contents of a run's sources.

    The sources are `case.json`, `outcome.json`, `import.json` and the files of `logs/`, as far as they are
    there; what is made from them (`result.json`, `steps.csv`) does not count.
    """
    logs = folder / "logs"
    paths = [folder / name for name in _SOURCES]
    paths += sorted(logs.iterdir()) if logs.is_dir() else []
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()[:_DIGITS]
