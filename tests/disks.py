"""A disk that stops answering, as a dead disk or server does: a frozen file system. For tests only."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOOLS = ("mkfs.ext4", "mount", "fsfreeze")
_MEGABYTES = 32


@dataclass
class HungDisk:
    """A file system; while it hangs, whatever writes to it waits, and not even SIGKILL ends that."""

    folder: Path
    hangs: bool = False

    def hang(self) -> None:
        """Answer no more writes."""
        subprocess.run(["fsfreeze", "--freeze", str(self.folder)], check=True)
        self.hangs = True

    def answer(self) -> None:
        """Answer again."""
        if self.hangs:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.folder)], check=True)
        self.hangs = False


@contextmanager
def hanging_disk(folder: Path, *, image: Path) -> Iterator[HungDisk]:
    """Mount a new file system at `folder`; skips the test if that is not possible."""
    if os.geteuid() != 0 or not all(map(shutil.which, _TOOLS)):
        pytest.skip(f"a disk that hangs needs root and {', '.join(_TOOLS)}")
    image.touch()
    os.truncate(image, _MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a disk that hangs needs a loop device: {done.stderr.strip()}")
    disk = HungDisk(folder)
    try:
        yield disk
    finally:
        disk.answer()
        subprocess.run(["umount", "-l", str(folder)], check=True)
