"""Environments from a wheel of the user's own or from an index, made by the real uv."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from environment_lab import HoldingIndex, write_wheel

from dlperf.adapters.base import WheelFile
from dlperf.environments import ensure
from dlperf.environments.environment import environment_key
from dlperf.errors import EnvironmentUnavailable
from dlperf.plan.versions import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.environments import Environment

    Ensure = Callable[[EnvironmentSpec], Environment]


@pytest.fixture
def made(report: Callable[[str], None]) -> Ensure:
    return lambda spec: ensure(spec, report=report)


def own_wheel(folder: Path, version: str = "1.0") -> WheelFile:
    """A wheel of demo-engine that lies where no setting of pip's looks."""
    folder.mkdir(exist_ok=True)
    path = write_wheel(folder, "demo-engine", version)
    return WheelFile(path=str(path), sha256=sha256_of(path))


def test_the_users_wheel_is_what_is_installed(demo: EnvironmentSpec, tmp_path: Path, made: Ensure) -> None:
    wheel = own_wheel(tmp_path / "own", "2.0")
    own = replace(demo, version="2.0", requirements=("demo-engine==2.0",), wheel=wheel)
    environment = made(own)
    assert "2.0" == environment.manifest.version
    assert wheel == environment.manifest.spec.wheel


def test_the_same_version_from_a_wheel_is_an_environment_of_its_own(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure
) -> None:
    wheel = own_wheel(tmp_path / "own")
    own = replace(demo, wheel=wheel)
    assert made(demo).key != made(own).key
    moved = shutil.copy(wheel.path, tmp_path)
    assert environment_key(own) == environment_key(replace(demo, wheel=replace(wheel, path=str(moved))))
    assert environment_key(own) != environment_key(replace(demo, wheel=replace(wheel, sha256="0" * 64)))


def test_a_wheel_that_was_built_anew_meanwhile_is_refused(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure
) -> None:
    wheel = own_wheel(tmp_path / "own")
    with (tmp_path / "own" / "demo_engine-1.0-py3-none-any.whl").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(EnvironmentUnavailable, match="has changed since it was read; start again"):
        made(replace(demo, wheel=wheel))
    (tmp_path / "own" / "demo_engine-1.0-py3-none-any.whl").unlink()
    with pytest.raises(EnvironmentUnavailable, match="No such file or directory"):
        made(replace(demo, wheel=wheel))


def test_an_index_gives_the_framework_although_another_place_has_that_version(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")  # the wheelhouse still holds demo-engine 1.0
    nightly = tmp_path / "nightly"
    nightly.mkdir()
    path = write_wheel(nightly, "demo-engine", "1.0")
    with HoldingIndex(nightly) as index:
        index.release()
        environment = made(replace(demo, index=index.url))
        assert index.delivered.is_set()
    assert "1.0" == environment.manifest.version
    assert environment.key != environment_key(demo)
    assert path.exists()


def test_an_index_without_the_version_is_told_with_its_reason(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    (tmp_path / "nightly").mkdir()
    with HoldingIndex(tmp_path / "nightly") as index:
        index.release()
        with pytest.raises(EnvironmentUnavailable) as caught:
            made(replace(demo, index=index.url))
    assert str(caught.value).startswith("demo==1.0 cannot be installed here: ")
    assert "demo-engine" in str(caught.value)
    assert "; try again, or use a Python that has it" in str(caught.value)


def test_a_page_of_links_gives_the_framework_although_another_place_has_that_version(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure
) -> None:
    """Also of a version that no index has; the other packages come from where they always do."""
    staging = tmp_path / "staging"
    staging.mkdir()
    for version in ("1.0", "1.2"):
        write_wheel(staging, "demo-engine", version)
    keys = {environment_key(demo)}
    with HoldingIndex(staging) as index:
        index.release()
        for version in ("1.0", "1.2"):
            wanted = replace(
                demo,
                version=version,
                requirements=(f"demo-engine=={version}", "demo-other==3.0"),
                find_links=f"{index.url}/demo-engine",
            )
            write_wheel(tmp_path / "wheelhouse", "demo-other", "3.0")
            index.delivered.clear()
            environment = made(wanted)
            assert index.delivered.is_set()
            assert {"demo-engine": version, "demo-other": "3.0"} == environment.manifest.packages
            keys.add(environment.key)
    assert 3 == len(keys)


def test_a_folder_can_hold_the_links(demo: EnvironmentSpec, tmp_path: Path, made: Ensure) -> None:
    folder = tmp_path / "own"
    own_wheel(folder, "2.0")
    wanted = replace(demo, version="2.0", requirements=("demo-engine==2.0",), find_links=str(folder))
    assert {"demo-engine": "2.0"} == made(wanted).manifest.packages


@pytest.mark.parametrize("place", ["index", "find_links"])
def test_from_the_place_alone_means_from_no_other(
    place: str, demo: EnvironmentSpec, tmp_path: Path, made: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither pip's setting nor uv's: both wheelhouses hold the version, and the place does not."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheelhouse"))
    (tmp_path / "empty").mkdir()
    with HoldingIndex(tmp_path / "empty") as index:
        index.release()
        url = index.url if place == "index" else f"{index.url}/demo-engine"
        with pytest.raises(EnvironmentUnavailable, match="demo-engine"):
            made(replace(demo, **{place: url}))


def test_a_folder_can_be_an_index(
    demo: EnvironmentSpec, tmp_path: Path, made: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    package = tmp_path / "simple" / "demo-engine"
    package.mkdir(parents=True)
    wheel = write_wheel(package, "demo-engine", "1.0")
    (package / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>')
    index = (tmp_path / "simple").as_uri()
    assert {"demo-engine": "1.0"} == made(replace(demo, index=index)).manifest.packages
