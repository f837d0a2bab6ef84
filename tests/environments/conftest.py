"""A cache, a wheelhouse and an index of this test's own, for the real uv."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from environment_lab import HoldingIndex, write_wheel

from dlperf.adapters.base import EnvironmentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of environments, empty; uv's cache is the test's own too."""
    monkeypatch.setenv("DLPERF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return tmp_path / "cache" / "environments"


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds demo-engine 1.0 and 1.1; pip's settings name it and nothing else."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    write_wheel(folder, "demo-engine", "1.0")
    write_wheel(folder, "demo-engine", "1.1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def demo(wheelhouse: Path) -> EnvironmentSpec:
    """A framework of one tiny wheel."""
    del wheelhouse
    return EnvironmentSpec(
        framework="demo",
        version="1.0",
        pythons=(f"{sys.version_info[0]}.{sys.version_info[1]}",),
        requirements=("demo-engine==1.0",),
        import_check="import demo_engine; print(demo_engine.__version__)",
    )


@pytest.fixture
def said() -> list[str]:
    """What was reported."""
    return []


@pytest.fixture
def report(said: list[str]) -> Callable[[str], None]:
    return said.append


@pytest.fixture
def holding_index(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HoldingIndex]:
    """A package index over the wheelhouse that holds a download back until it is released."""
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with HoldingIndex(wheelhouse) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index
