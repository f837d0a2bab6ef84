"""Where the files that ship beside the package lie: in a checkout or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds `frameworks/`, `experiments/`, `sweeps/`, `clusters/` and `templates/`."""
    installed = _PACKAGE / "_shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def shipped_folder(name: str) -> Path:
    """The shipped folder `name`, such as `sweeps`."""
    return shipped_root() / name
