"""The frameworks as tests start them, and changed copies of their programs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlperf.files import shipped_folder, shipped_root

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A framework; `environment` is what the adapter sets besides threads."""

    name: str
    version: str
    threads: int
    environment: dict[str, str] = field(default_factory=dict)


# One thread waits for no other: on a busy machine two take many times as long.
MXNET = Engine(name="mxnet", version="1.9.1", threads=1)
ONEFLOW = Engine(
    name="oneflow",
    version="0.9.0",
    threads=2,
    environment={"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"},
)
JAX = Engine(name="jax", version="0.10.2", threads=1)
PYTORCH = Engine(name="pytorch", version="2.13.0", threads=1)


def copy_of_programs(folder: Path, file: str, changes: dict[str, str]) -> None:
    """Copy `frameworks/` into `folder`, with texts of one file replaced, each of which stands there once."""
    ignored = shutil.ignore_patterns("__pycache__", "log")
    shutil.copytree(shipped_folder("frameworks"), folder / "frameworks", ignore=ignored)
    path = folder / "frameworks" / file
    text = path.read_text()
    for before, after in changes.items():
        assert 1 == text.count(before), f"{file} no longer holds {before!r} once"
        text = text.replace(before, after)
    path.write_text(text)


def short_network(folder: Path) -> Path:
    """An installation whose MobileFaceNet has 1 of its 12 residual units, and so every kind of layer.

    For what has to do with devices or nodes and not with depth: most of the time OneFlow compiles, once per
    process. `dlperf.files._PACKAGE` is to be the folder that is returned.
    """
    stages = ("1", 4, 1), ("2", 6, 0), ("3", 2, 0)
    changes = {f'_residuals("stage{name}", {n},': f'_residuals("stage{name}", {m},' for name, n, m in stages}
    copy_of_programs(folder, "common/networks.py", changes)
    for other in shipped_root().iterdir():
        if other.is_dir() and other.name in {"experiments", "sweeps", "clusters", "templates", "reports"}:
            (folder / other.name).symlink_to(other)
    return folder / "dlperf"
