"""Environments are made by the real uv: whole and proved, once, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from environment_lab import WAIT_SECONDS, HoldingIndex, maker, write_wheel

from dlperf.environments import ensure
from dlperf.environments.catalogue import entries_named
from dlperf.environments.environment import environment_key, lock_of
from dlperf.environments.make import make, uv_steps
from dlperf.environments.processes import exclusive
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.adapters.base import EnvironmentSpec


def output_of(python: Path, source: str) -> str:
    return subprocess.run([python, "-c", source], capture_output=True, text=True, check=True).stdout.strip()


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".locks")


def test_holds_what_was_asked_for(demo: EnvironmentSpec, cache: Path, report: Callable[[str], None]) -> None:
    environment = ensure(demo, report=report)
    assert cache / environment_key(demo) == environment.root
    assert "1.0" == output_of(environment.python, "import demo_engine; print(demo_engine.__version__)")
    assert str(environment.root) == output_of(environment.python, "import sys; print(sys.prefix)")
    assert {"demo-engine": "1.0"} == environment.manifest.packages
    assert "1.0" == environment.manifest.version
    assert environment.manifest.installer is not None
    assert environment.manifest.installer.startswith("uv ")


def test_second_time_nothing_is_made(
    demo: EnvironmentSpec, report: Callable[[str], None], said: list[str]
) -> None:
    first = ensure(demo, report=report)
    said.clear()
    assert first == ensure(demo, report=report)
    assert [] == said


def test_says_what_it_does(demo: EnvironmentSpec, report: Callable[[str], None], said: list[str]) -> None:
    ensure(replace(demo, notes="a few bytes"), report=report)
    assert said[0].startswith("demo==1.0: creating its environment in ")
    assert said[0].endswith(" (a few bytes)")
    assert any(line.startswith("  Installed 1 package") for line in said)
    assert "demo==1.0: ready" == said[-1]


def test_takes_packages_from_the_index(
    demo: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    six = replace(
        demo,
        framework="six",
        version="1.16.0",
        requirements=("six==1.16.0",),
        import_check="import six; print(six.__version__)",
    )
    assert {"six": "1.16.0"} == ensure(six, report=report).manifest.packages


def test_other_requirements_are_another_environment(demo: EnvironmentSpec) -> None:
    assert environment_key(demo) != environment_key(replace(demo, requirements=("demo-engine==1.1",)))
    assert environment_key(demo) != environment_key(replace(demo, import_check="print('1.0')"))
    assert environment_key(demo) == environment_key(replace(demo, notes="worth knowing"))


def test_does_not_see_the_packages_of_its_maker(
    demo: EnvironmentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    (tmp_path / "demo_engine.py").write_text("__version__ = 'the wrong one'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "1.0" == ensure(demo, report=report).manifest.version


def test_a_project_around_it_changes_nothing(
    demo: EnvironmentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[[str], None]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.uv.pip]\nno-index = false\nfind-links = ['nowhere']\n")
    monkeypatch.chdir(tmp_path)
    assert "1.0" == ensure(demo, report=report).manifest.version


def test_a_missing_version_gives_reason_and_next_step(
    demo: EnvironmentSpec, cache: Path, report: Callable[[str], None]
) -> None:
    with pytest.raises(EnvironmentUnavailable) as caught:
        ensure(replace(demo, version="7.0", requirements=("demo-engine==7.0",)), report=report)
    text = str(caught.value)
    assert text.startswith("demo==7.0 cannot be installed here: ")
    assert "there is no version of demo-engine==7.0" in text
    assert "dlperf env create demo==7.0" in text
    assert "python: /path/to/python" in text
    assert "\n" not in text
    assert [] == leftovers(cache)


def test_nothing_is_compiled_by_surprise(
    demo: EnvironmentSpec, wheelhouse: Path, cache: Path, report: Callable[[str], None]
) -> None:
    (wheelhouse / "demo_engine-2.0.tar.gz").write_bytes(b"never opened")
    with pytest.raises(EnvironmentUnavailable, match=r"demo-engine==2\.0 has no usable wheels"):
        ensure(replace(demo, version="2.0", requirements=("demo-engine==2.0",)), report=report)
    assert [] == leftovers(cache)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("print('1.1')", "has demo 1.1, not 1.0"),
        ("pass", "has demo (no version), not 1.0"),
        ("import os; os._exit(7)", "the check ended with exit code 7"),
        ("import os; os.abort()", "the check ended with SIGABRT"),
    ],
)
def test_a_framework_that_does_not_work_leaves_nothing(
    check: str, reason: str, demo: EnvironmentSpec, cache: Path, report: Callable[[str], None]
) -> None:
    with pytest.raises(EnvironmentUnavailable) as caught:
        ensure(replace(demo, import_check=check), report=report)
    assert reason in str(caught.value)
    assert [] == leftovers(cache)


def test_a_local_build_of_the_version_is_that_version(
    demo: EnvironmentSpec, report: Callable[[str], None]
) -> None:
    built = replace(demo, import_check="print('a banner'); print('1.0+cpu')")
    assert "1.0+cpu" == ensure(built, report=report).manifest.version


def test_two_makers_make_it_once(demo: EnvironmentSpec, holding_index: HoldingIndex) -> None:
    with maker(demo) as first:
        assert holding_index.asked.wait(WAIT_SECONDS)
        with maker(demo) as second:
            assert second.stderr is not None
            waiting = second.stderr.readline()
            assert "waiting" in waiting
            holding_index.release()
            first_python, first_said = first.communicate(timeout=WAIT_SECONDS)
            second_python, second_said = second.communicate(timeout=WAIT_SECONDS)
    assert first_python == second_python != ""
    assert "creating its environment" in first_said
    assert "" == second_said


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_maker_leaves_nothing_half_made(
    death: signal.Signals,
    demo: EnvironmentSpec,
    cache: Path,
    holding_index: HoldingIndex,
    report: Callable[[str], None],
) -> None:
    with maker(demo) as killed:
        assert holding_index.asked.wait(WAIT_SECONDS)
        os.kill(killed.pid, death)
        killed.wait(timeout=WAIT_SECONDS)
    assert not (cache / environment_key(demo)).exists()
    # uv dies with its maker: the lock, which it holds too, is free although nothing was delivered.
    with exclusive(lock_of(environment_key(demo)), on_wait=lambda: None):
        assert not holding_index.delivered.is_set()
    holding_index.release()
    environment = ensure(demo, report=report)
    assert "1.0" == environment.manifest.version
    assert [environment.key] == leftovers(cache)


def test_an_environment_whose_python_is_gone_is_made_again(
    demo: EnvironmentSpec, tmp_path: Path, report: Callable[[str], None], said: list[str]
) -> None:
    environment = ensure(demo, report=report)
    environment.python.unlink()
    environment.python.symlink_to(tmp_path / "removed" / "python")
    said.clear()
    assert "1.0" == ensure(demo, report=report).manifest.version
    assert "is broken" in said[0]


def test_an_environment_without_manifest_is_made_again(
    demo: EnvironmentSpec, report: Callable[[str], None], said: list[str]
) -> None:
    environment = ensure(demo, report=report)
    (environment.root / "dlperf-environment.json").write_text("{}")
    said.clear()
    assert "1.0" == ensure(demo, report=report).manifest.version
    assert "is broken" in said[0]


def test_builds_on_the_python_that_is_given(demo: EnvironmentSpec, report: Callable[[str], None]) -> None:
    base = Path(sys.executable)
    environment = make(replace(demo, pythons=("1.0",)), base=base, report=report)
    assert sys.base_prefix == output_of(environment.python, "import sys; print(sys.base_prefix)")


def test_uses_a_python_of_the_users_own(
    demo: EnvironmentSpec, cache: Path, report: Callable[[str], None], said: list[str]
) -> None:
    own = ensure(demo, report=report).python
    said.clear()
    other = replace(demo, requirements=("demo-engine==1.0", "never-looked-at==1.0"))
    environment = ensure(other, python=own, report=report)
    assert own == environment.python
    assert environment.key.startswith("user-demo-1.0-")
    assert {"demo-engine": "1.0"} == environment.manifest.packages
    assert environment.manifest.installer is None
    assert [] == said
    assert [environment_key(demo)] == leftovers(cache)
    with environment.in_use():
        pass


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nowhere", None, "is not an executable; give the path of a Python with demo"),
        ("data", "", "is not an executable"),
        (
            "fails",
            "#!/bin/sh\necho 'cannot start' >&2\nexit 3\n",
            "is not a working Python 3.8 or newer: cannot start",
        ),
        ("silent", "#!/bin/sh\n", "is not a working Python 3.8 or newer: it ended with exit code 0"),
    ],
)
def test_a_path_that_is_no_python_is_refused(
    name: str, content: str | None, reason: str, demo: EnvironmentSpec, tmp_path: Path
) -> None:
    program = tmp_path / name
    if content is not None:
        program.write_text(content)
        program.chmod(0o755 if content else 0o644)
    with pytest.raises(EnvironmentUnavailable) as caught:
        ensure(demo, python=program)
    assert str(program) in str(caught.value)
    assert reason in str(caught.value)


def test_a_python_with_another_version_is_refused(
    demo: EnvironmentSpec, report: Callable[[str], None]
) -> None:
    own = ensure(demo, report=report).python
    with pytest.raises(EnvironmentUnavailable, match=r"has demo 1\.0, not 1\.1"):
        ensure(replace(demo, version="1.1"), python=own, report=report)


def test_an_environment_removed_before_use_is_noticed(
    demo: EnvironmentSpec, report: Callable[[str], None]
) -> None:
    environment = ensure(demo, report=report)
    environment.python.unlink()
    with pytest.raises(EnvironmentUnavailable, match="removed meanwhile"), environment.in_use():
        pass


def test_a_torch_that_lies_ready_is_taken(
    demo: EnvironmentSpec, wheelhouse: Path, report: Callable[[str], None]
) -> None:
    """--torch-backend would make uv ask download.pytorch.org."""
    write_wheel(wheelhouse, "torch", "9.9.0+cpu")
    torch = replace(
        demo,
        framework="torch",
        version="9.9.0",
        requirements=("torch==9.9.0",),
        torch_backend="cpu",
        import_check="import torch; print(torch.__version__)",
    )
    assert "9.9.0+cpu" == ensure(torch, report=report).manifest.version


def test_torch_from_pypi_is_not_a_build_for_the_cpu_that_lies_ready(
    demo: EnvironmentSpec, wheelhouse: Path, report: Callable[[str], None]
) -> None:
    """`==9.9.0` prefers 9.9.0+cpu."""
    write_wheel(wheelhouse, "torch", "9.9.0+cpu")
    write_wheel(wheelhouse, "torch", "9.9.0")
    torch = replace(
        demo,
        framework="torch",
        version="9.9.0",
        requirements=("torch==9.9.0",),
        torch_backend="cu130",
        torch_on_pypi=True,
        import_check="import torch; print(torch.__version__)",
    )
    environment = ensure(torch, report=report)
    assert "9.9.0" == environment.manifest.version
    assert environment.key.startswith("torch-9.9.0-cu130-")
    for name in ("torch==9.9.0", "torch", environment.key):
        assert [environment.key] == [entry.key for entry in entries_named(name)]


def test_the_build_of_torch_is_asked_for_by_name(demo: EnvironmentSpec) -> None:
    paths = {"base": "python", "folder": "/e", "interpreter": "/e/bin/python"}
    old = replace(demo, requirements=("torch==2.13.0",), torch_backend="cu126")
    _, install = uv_steps(old, old.requirements, **paths)
    assert {"--torch-backend=cu126", "torch==2.13.0"} < set(install.arguments)
    new = replace(old, torch_backend="cu130", torch_on_pypi=True)
    _, install = uv_steps(new, new.requirements, **paths)
    assert "torch===2.13.0" in install.arguments
    assert not [word for word in install.arguments if word.startswith("--torch-backend")]


@pytest.mark.parametrize("place", ["index", "links"])
def test_a_place_with_a_password_is_used_and_the_password_is_in_no_command_and_no_file(
    place: str,
    demo: EnvironmentSpec,
    holding_index: HoldingIndex,
    report: Callable[[str], None],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holding_index.authorization = f"Basic {b64encode(b'me:hunter2').decode()}"
    url = holding_index.url.replace("://", "://me:hunter2@")
    if place == "index":
        monkeypatch.setenv("PIP_INDEX_URL", url)
    else:
        monkeypatch.setenv("PIP_FIND_LINKS", f"{url}/demo-engine")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(ensure, demo, report=report)
        assert holding_index.asked.wait(WAIT_SECONDS)
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        holding_index.release()
        environment = making.result()
    assert any(b"demo-engine==1.0" in command for command in commands)
    assert not [command for command in commands if b"hunter2" in command]
    assert not [line for line in said if "hunter2" in line]
    files = [path for path in environment.root.rglob("*") if path.is_file()]
    assert [] == [path for path in files if b"hunter2" in path.read_bytes()]
