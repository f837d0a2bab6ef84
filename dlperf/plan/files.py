"""Which file a name means: the user's own first, then the one that ships with dlperf."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dlperf.errors import UserError
from dlperf.plan.validation import unknown
from dlperf.shipped import shipped_folder

Kind = Literal["sweep", "experiment", "cluster"]

_SUFFIXES = (".yaml", ".yml")


def find_file(kind: Kind, name: str, *, folders: tuple[Path, ...]) -> Path:
    """The file that `name` means: a path as it stands, or `NAME`, `sweeps/NAME`, `sweeps/NAME.yaml`.

    A path is taken from the first of `folders`; a name is looked up in `<folder>/sweeps` (or `experiments`)
    of each of `folders`, then among the shipped files. Clusters lie in `clusters/`.

    Raises:
        UserError: there is no such file.
    """
    written = folders[0] / Path(name).expanduser()
    if written.suffix in _SUFFIXES and written.is_file():
        return written
    relative = Path(name)
    if relative.parent.name in ("", f"{kind}s") and len(relative.parts) <= len(("sweeps", "name")):
        stem = relative.name.removesuffix(".yaml").removesuffix(".yml")
        for folder in _folders(kind, folders):
            for suffix in _SUFFIXES:
                candidate = folder / f"{stem}{suffix}"
                if candidate.is_file():
                    return candidate
    if written.is_file():
        raise UserError(f"{name}: a {kind} is a YAML file, whose name ends in .yaml or .yml")
    if written.is_dir():
        raise UserError(f"{name} is a folder; name one {kind} file in it")
    raise UserError(unknown(kind, name, known_names(kind, folders=folders)))


def known_names(kind: Kind, *, folders: tuple[Path, ...]) -> list[str]:
    """The names that `find_file` finds without a path."""
    files = (file for folder in _folders(kind, folders) if folder.is_dir() for file in folder.iterdir())
    return sorted({file.stem for file in files if file.suffix in _SUFFIXES})


def shown(path: Path, *, folder: Path) -> str:
    """The path as a person in `folder` would write it."""
    absolute = path.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _folders(kind: Kind, folders: tuple[Path, ...]) -> tuple[Path, ...]:
    plural = f"{kind}s"
    return (*(folder / plural for folder in folders), shipped_folder(plural))
