"""Which files an import reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def files_of(paths: Sequence[Path], *, results: Path) -> Iterator[Path]:
    """The files themselves, and all files in folders, by name; hidden ones and results are passed over.

    Raises:
        UserError: a path is itself a folder of results.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        if _is_of_results(path, results):
            raise UserError(f"{path}: results of dlperf already; `dlperf results {path}` lists them")
        for folder, folders, files in os.walk(path):
            here = Path(folder)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and not _is_of_results(here / name, results)
            )
            yield from (here / name for name in sorted(files) if not name.startswith("."))


def _is_of_results(folder: Path, results: Path) -> bool:
    made = any(folder.glob("runs/*/r*/case.json"))
    return made or (results.exists() and folder.samefile(results))
