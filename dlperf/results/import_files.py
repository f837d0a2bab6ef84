"""Which files an import reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def files_of(paths: Sequence[Path], *, results: Path) -> Iterator[Path | UserError]:
    """The files themselves, and all files in folders, by name; an error for a folder that cannot be read.

    What is hidden, results of dlperf, and pipes and the like are passed over.

    Raises:
        UserError: a path is itself a folder of results.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        if _is_of_results(path, results):
            raise UserError(f"{path}: results of dlperf already; `dlperf results {path}` lists them")
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(path, onerror=unreadable.append):
            here = Path(folder)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and not _is_of_results(here / name, results)
            )
            found = (here / name for name in sorted(files) if not name.startswith("."))
            yield from (file for file in found if file.is_file() or not file.exists())
        for error in unreadable:
            yield UserError(f"{error.filename}: cannot be read: {error.strerror}")


def _is_of_results(folder: Path, results: Path) -> bool:
    made = any(folder.glob("runs/*/r*/case.json"))
    return made or (results.exists() and folder.samefile(results))
