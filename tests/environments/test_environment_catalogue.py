"""What lies in the cache can be listed, checked and removed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from environment_lab import WAIT_SECONDS

from dlperf.environments import Environment, ensure
from dlperf.environments.catalogue import Entry, entries, entries_named, problems, remove
from dlperf.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec

USER = """
import sys
from pathlib import Path
from dlperf.environments.processes import shared
with shared(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def made(demo: EnvironmentSpec, report: Callable[[str], None]) -> Environment:
    return ensure(demo, report=report)


@pytest.fixture
def entry(made: Environment) -> Entry:
    return Entry(key=made.key, root=made.root, environment=made)


@pytest.fixture
def site_packages(made: Environment) -> Path:
    (folder,) = made.root.glob("lib/python3*/site-packages")
    return folder


def test_an_empty_cache_holds_nothing() -> None:
    assert () == entries()


def test_lists_what_was_made(made: Environment, demo: EnvironmentSpec, report: Callable[[str], None]) -> None:
    newer = ensure(replace(demo, version="1.1", requirements=("demo-engine==1.1",)), report=report)
    assert [made, newer] == [entry.environment for entry in entries()]
    assert all(entry.size_bytes > 1000 for entry in entries())


def test_finds_by_name_version_and_key(
    made: Environment, demo: EnvironmentSpec, report: Callable[[str], None]
) -> None:
    newer = ensure(replace(demo, version="1.1", requirements=("demo-engine==1.1",)), report=report)
    relative = ensure(replace(demo, framework="demo-gpu"), report=report)
    assert [made.key, newer.key] == [entry.key for entry in entries_named("demo")]
    assert [newer.key] == [entry.key for entry in entries_named("demo==1.1")]
    assert [made.key] == [entry.key for entry in entries_named(made.key)]
    assert [relative.key] == [entry.key for entry in entries_named("demo-gpu")]
    assert () == entries_named("dem")


def test_removes(entry: Entry, cache: Path) -> None:
    remove(entry)
    assert () == entries()
    assert [".locks"] == [path.name for path in cache.iterdir()]


def test_removes_a_broken_one(entry: Entry) -> None:
    (entry.root / "bin" / "python").unlink()
    (broken,) = entries()
    assert broken.environment is None
    remove(broken)
    assert () == entries()


def test_never_removes_what_is_in_use(entry: Entry, made: Environment) -> None:
    assert made.lock is not None
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(made.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert "holding\n" == user.stdout.readline()
        with pytest.raises(InfrastructureError, match=f"{entry.key} is in use by another dlperf"):
            remove(entry)
        with made.in_use():  # any number of users
            pass
        user.communicate(timeout=WAIT_SECONDS)
    remove(entry)
    assert not entry.root.exists()


def test_nothing_is_wrong_with_a_fresh_one(entry: Entry) -> None:
    assert () == problems(entry)


def test_names_a_package_of_another_version(entry: Entry, site_packages: Path) -> None:
    info = site_packages / "demo_engine-1.0.dist-info"
    metadata = (info / "METADATA").read_text().replace("Version: 1.0", "Version: 1.5")
    (info / "METADATA").unlink()  # it is a hard link into uv's cache
    (info / "METADATA").write_text(metadata)
    assert "package demo-engine was 1.0 and is 1.5" in problems(entry)


def test_names_a_package_that_was_added(entry: Entry, site_packages: Path) -> None:
    info = site_packages / "extra-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Extra\nVersion: 2.0\n")
    assert ("package extra 2.0 was added",) == problems(entry)


def test_names_a_package_that_is_gone(entry: Entry, site_packages: Path) -> None:
    shutil.rmtree(site_packages / "demo_engine-1.0.dist-info")
    assert ("package demo-engine 1.0 is missing",) == problems(entry)


def test_names_a_file_that_was_changed(entry: Entry, site_packages: Path) -> None:
    module = site_packages / "demo_engine.py"
    module.unlink()
    module.write_text("__version__ = '1.0'  # patched\n")
    (problem,) = problems(entry)
    assert problem.startswith("package demo-engine: file demo_engine.py has 31 bytes instead of ")


def test_names_a_framework_that_no_longer_starts(entry: Entry, site_packages: Path) -> None:
    (site_packages / "demo_engine.py").unlink()
    damaged, broken = problems(entry)
    assert "package demo-engine: file demo_engine.py is missing" == damaged
    assert "No module named 'demo_engine'" in broken


def test_names_an_environment_without_python(entry: Entry) -> None:
    (entry.root / "bin" / "python").unlink()
    (broken,) = entries()
    (problem,) = problems(broken)
    assert "its manifest or its Python is missing" in problem
