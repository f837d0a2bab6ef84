"""outcome.json, written whole or not at all. For the supervisor; docs/architecture.md describes it."""

import json
import os
from pathlib import Path
from typing import Any, Dict


class OutcomeFile:
    """outcome.json, its space taken beforehand, so that a full disk does not keep it from being written."""

    def __init__(self, ranks: int) -> None:
        self._unfinished = Path(".outcome.json.unfinished")
        self._descriptor = os.open(
            self._unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
        )
        os.posix_fallocate(self._descriptor, 0, 4096 + 256 * ranks)

    def write(self, content: Dict[str, Any]) -> None:
        """Put the content in place, whole."""
        data = json.dumps(content, indent=1).encode() + b"\n"
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._unfinished.rename("outcome.json")
        folder = os.open(".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
