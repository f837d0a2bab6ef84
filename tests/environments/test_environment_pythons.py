"""Interpreters are found where uv does not look, and only those that start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlperf.environments.uv import Uv, find_python, find_uv, works
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def uv(report: Callable[[str], None]) -> Uv:
    return find_uv(report)


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH, empty; pyenv's folder is empty too, and uv has no Python of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv-pythons"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    return folder


def put(path: Path, *, target: Path = Path(sys.executable)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def shim(path: Path) -> Path:
    """What pyenv puts on PATH for a version that is not chosen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    path.chmod(0o755)
    return path


def test_this_interpreter_works() -> None:
    assert works(Path(sys.executable), HERE)
    assert not works(Path(sys.executable), "2.7")


def test_takes_pyenvs_newest_patch(path_folder: Path, tmp_path: Path, uv: Uv) -> None:
    shim(path_folder / f"python{HERE}")
    put(tmp_path / f"pyenv/versions/{HERE}.9/bin/python{HERE}")
    newest = put(tmp_path / f"pyenv/versions/{HERE}.10/bin/python{HERE}")
    assert newest == find_python((HERE,), uv=uv)


def test_skips_a_shim_that_does_not_start(
    path_folder: Path, tmp_path: Path, uv: Uv, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim(path_folder / f"python{HERE}")
    behind = put(tmp_path / "bin2" / f"python{HERE}")
    monkeypatch.setenv("PATH", f"{path_folder}:{behind.parent}")
    assert behind == find_python((HERE,), uv=uv)


def test_takes_the_second_choice_where_the_first_is_not_here(path_folder: Path, uv: Uv) -> None:
    second = put(path_folder / f"python{HERE}")
    assert second == find_python(("3.77", HERE), uv=uv)


def test_an_interpreter_under_a_false_name_is_not_taken(path_folder: Path, uv: Uv) -> None:
    put(path_folder / "python3.77")
    assert put(path_folder / f"python{HERE}") == find_python(("3.77", HERE), uv=uv)


@pytest.mark.usefixtures("path_folder")
def test_says_which_python_is_missing(uv: Uv, said: list[str]) -> None:
    with pytest.raises(
        EnvironmentUnavailable, match=r"there is no Python 3\.9 on this machine, and uv cannot"
    ):
        find_python(("3.9",), uv=uv)
    assert ["  no Python 3.9 found; downloading it"] == said
