"""A package without a wheel is really compiled: against its environment, once, or not at all."""

from __future__ import annotations

import ctypes.util
import ensurepip
import json
import os
import platform
import select
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from environment_lab import WAIT_SECONDS, maker, write_source, write_wheel

from dlperf.adapters.base import EnvironmentSpec, NvccUse, SourceBuild, SourceEdit
from dlperf.environments import ensure
from dlperf.environments.builds import wheel_key, wheels_root
from dlperf.environments.environment import environment_key
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

# A build backend of the package's own, so that no other package is needed: it imports what it is built
# against, runs the compiler, and writes into the wheel what it saw.
BACKEND = """
import importlib.util, os, pathlib, subprocess, zipfile
import demo_engine, demo_tool

def get_requires_for_build_wheel(config_settings=None):
    return []

METADATA = "Metadata-Version: 2.1\\nName: demo-native\\nVersion: 1.0\\n"

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory) / "demo_native-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    return folder.name

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open(os.environ["BUILDS_FILE"], "a") as builds:
        builds.write("built\\n")
    if "GATE" in os.environ:
        pathlib.Path(os.environ["GATE"]).write_text(str(os.getpid()))
        pathlib.Path(os.environ["GATE"]).read_text()
    subprocess.run(["g++", "-shared", "-fPIC", "-o", "native.so", "native.cc"], check=True)
    seen = {name: value for name, value in os.environ.items() if name.startswith(("DEMO_", "CXX"))}
    if importlib.util.find_spec("demo_link"):
        seen["path"] = os.environ["PATH"].split(":")[1]
        seen["libraries"] = os.environ["LD_LIBRARY_PATH"].split(":")
        seen["stub"] = os.readlink(os.path.join(seen["libraries"][-1], "libcuda.so.1"))
    info = "demo_native-1.0.dist-info"
    name = "demo_native-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("demo_native.py", f"engine = {demo_engine.__version__!r}\\nseen = {seen!r}\\n")
        wheel.write("native.so", "demo_answer.so")
        wheel.writestr(f"{info}/METADATA", METADATA)
        tags = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
SOURCE = 'extern "C" int answer() { return 42; }\n'
CHECK = """
import ctypes, demo_engine, demo_native
library = ctypes.CDLL(demo_native.__file__.replace("native.py", "answer.so"))
assert library.answer() == 42
print(demo_engine.__version__)
"""


@pytest.fixture
def builds_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line a build."""
    path = tmp_path / "builds"
    path.touch()
    monkeypatch.setenv("BUILDS_FILE", str(path))
    return path


@pytest.fixture
def write_native(wheelhouse: Path) -> Callable[[str], None]:
    def write(source: str) -> None:
        files = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND, "native.cc": source}
        write_source(wheelhouse, "demo-native", "1.0", files)

    return write


@pytest.fixture
def native(
    demo: EnvironmentSpec, wheelhouse: Path, write_native: Callable[[str], None], builds_file: Path
) -> EnvironmentSpec:
    """The demo framework with a package that is compiled against it."""
    del builds_file
    write_native(SOURCE)
    write_wheel(wheelhouse, "demo-tool", "3.0")
    put_pip(wheelhouse)
    build = SourceBuild(
        requirement="demo-native==1.0",
        tools=("demo-tool==3.0",),
        settings={"DEMO_FLAVOUR": "{site_packages}/sweet"},
        programs={"g++": "apt install g++"},
    )
    return replace(demo, builds=(build,), import_check=CHECK)


def put_pip(wheelhouse: Path) -> None:
    """The pip that Python brings, under the version that the build asks for: there is no index here."""
    bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    shutil.copy(bundled, wheelhouse)


@pytest.fixture(autouse=True)
def bundled_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlperf.environments.builds._PIP", f"pip=={ensurepip.version()}")


def output_of(python: Path, source: str) -> str:
    return subprocess.run([python, "-c", source], capture_output=True, text=True, check=True).stdout.strip()


def kept() -> list[str]:
    return sorted(path.name for path in wheels_root().iterdir() if path.name != ".locks")


def key_of(spec: EnvironmentSpec) -> str:
    return wheel_key(spec.builds[0], spec, platform.python_version())


def test_is_compiled_against_the_environment_and_installed(
    native: EnvironmentSpec, report: Callable[[str], None], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its settings, not with what the user has set under the package's prefix; the tools stay out."""
    monkeypatch.setenv("DEMO_FLAVOUR", "sour")
    monkeypatch.setenv("DEMO_OTHER", "1")

    environment = ensure(native, report=report)

    assert {"demo-engine": "1.0", "demo-native": "1.0"} == environment.manifest.packages
    show = "import json, demo_native; print(json.dumps([demo_native.engine, demo_native.seen]))"
    engine, seen = json.loads(output_of(environment.python, show))
    assert "1.0" == engine
    assert ["DEMO_FLAVOUR"] == list(seen)
    assert seen["DEMO_FLAVOUR"].endswith("/site-packages/sweet")
    assert any("compiling demo-native==1.0, once" in line for line in said)
    assert "  of your variables the build does not use DEMO_FLAVOUR, DEMO_OTHER" in said
    assert [key_of(native)] == kept()


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver here")
def test_a_build_for_cuda_gets_its_toolkit_its_compiler_and_a_stand_in_for_the_driver(
    native: EnvironmentSpec,
    report: Callable[[str], None],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The toolkit is one that says it is: nothing here needs nvcc."""
    home = tmp_path / "cuda-11.8"
    nvcc, stub = home / "bin" / "nvcc", home / "lib64" / "stubs" / "libcuda.so"
    header = home / "include" / "cuda_runtime.h"
    for path in (nvcc, stub, header):
        path.parent.mkdir(parents=True)
    header.touch()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 11.8, V11.8.89\n")
    nvcc.chmod(0o755)
    stub.touch()
    monkeypatch.setenv("DEMO_CUDA_HOME", str(home))
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-allow-unsupported-compiler")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/user")
    build = replace(
        native.builds[0],
        settings={"LD_LIBRARY_PATH": "{site_packages}/nvidia/lib"},
        nvcc=NvccUse(cuda="11", package="cuda-toolkit-11-8", home="DEMO_CUDA_HOME"),
        links={"{site_packages}/demo_link.py": "demo_engine.py"},
    )

    environment = ensure(replace(native, builds=(build,)), report=report)

    seen = json.loads(
        output_of(environment.python, "import json, demo_native as d; print(json.dumps(d.seen))")
    )
    assert {"DEMO_CUDA_HOME": str(home), "CXX": "g++"}.items() <= seen.items()
    assert (str(home / "bin"), str(stub)) == (seen["path"], seen["stub"])
    first, second, _ = seen["libraries"]
    assert (True, "/of/the/user") == (first.endswith("/site-packages/nvidia/lib"), second)
    (name,) = kept()
    assert "-nvcc11.8.89-gcc" in name
    assert not [line for line in said if "does not use" in line]


def test_is_compiled_once_for_all_environments_that_it_fits(
    native: EnvironmentSpec, report: Callable[[str], None], builds_file: Path
) -> None:
    """Also after they are removed, and without a compiler then."""
    first = ensure(native, report=report)
    shutil.rmtree(first.root)
    without = replace(native.builds[0], programs={"no-such-compiler": "never looked for"})
    again = ensure(replace(native, builds=(without,)), report=report)
    assert first.root == again.root
    assert again.root != ensure(replace(native, import_check=CHECK + "\n"), report=report).root
    assert 1 == len(builds_file.read_text().splitlines())


def test_the_source_is_corrected(native: EnvironmentSpec, report: Callable[[str], None]) -> None:
    edit = SourceEdit(file="native.cc", before="return 40", after="return 42")
    corrected = replace(native.builds[0], edits=(edit,))
    with pytest.raises(EnvironmentUnavailable, match=r"the patch of native\.cc does not apply"):
        ensure(replace(native, builds=(corrected,)), report=report)
    assert [] == kept()
    edit = replace(edit, before="return 42", after="return 40 + 2")
    ensure(replace(native, builds=(replace(corrected, edits=(edit,)),)), report=report)


def test_another_engine_gets_a_wheel_of_its_own(
    native: EnvironmentSpec, report: Callable[[str], None], builds_file: Path
) -> None:
    ensure(native, report=report)
    newer = replace(native, version="1.1", requirements=("demo-engine==1.1",))
    environment = ensure(newer, report=report)
    assert "1.1" == output_of(environment.python, "import demo_native; print(demo_native.engine)")
    assert 2 == len(builds_file.read_text().splitlines())
    assert sorted([key_of(native), key_of(newer)]) == kept()


def test_the_name_says_what_decides_the_content(native: EnvironmentSpec) -> None:
    (build,) = native.builds
    name = wheel_key(build, native, "3.10.13")
    assert name.startswith("demo-native-1.0-cp310-")
    assert name == wheel_key(build, replace(native, notes="other"), "3.10.2")
    others = {
        wheel_key(build, native, "3.11.2"),
        wheel_key(build, replace(native, requirements=("demo-engine==1.1",)), "3.10.13"),
        wheel_key(replace(build, settings={}), native, "3.10.13"),
        wheel_key(replace(build, tools=()), native, "3.10.13"),
        wheel_key(replace(build, edits=(SourceEdit(file="a", before="b", after="c"),)), native, "3.10.13"),
    }
    assert 5 == len(others - {name})


def test_a_requirement_without_a_part_in_the_build_changes_no_name(native: EnvironmentSpec) -> None:
    (build,) = native.builds
    more = replace(native, requirements=(*native.requirements, "pillow==10.4.0"))
    assert wheel_key(build, native, "3.10.13") != wheel_key(build, more, "3.10.13")
    apart = replace(build, without=("pillow==10.4.0",))
    assert wheel_key(build, native, "3.10.13") == wheel_key(apart, more, "3.10.13")


def test_environments_without_a_build_keep_their_names(
    demo: EnvironmentSpec, native: EnvironmentSpec
) -> None:
    assert environment_key(demo) == environment_key(replace(demo, parallel=True))
    assert environment_key(demo) != environment_key(native)


def test_a_missing_compiler_is_named_with_what_to_install(
    native: EnvironmentSpec, report: Callable[[str], None], cache: Path
) -> None:
    programs = dict.fromkeys(("no-compiler", "no-make"), "apt install g++ make")
    lacking = replace(native, parallel=True, builds=(replace(native.builds[0], programs=programs),))
    with pytest.raises(EnvironmentUnavailable) as caught:
        ensure(lacking, report=report)
    assert (
        "demo==1.0 cannot be installed here: demo-native==1.0 must be compiled and no-compiler and no-make "
        "are missing: apt install g++ make; try again with `dlperf env create demo==1.0 --parallel`, or use "
        "a Python that has it with `python: /path/to/python` in the sweep"
    ) == str(caught.value)
    assert [] == [path.name for path in cache.iterdir() if path.name != ".locks"]
    assert [] == kept()


def test_what_the_compiler_says_is_the_reason_and_its_output_is_kept(
    native: EnvironmentSpec, write_native: Callable[[str], None], report: Callable[[str], None]
) -> None:
    write_native("this is no C++\n")
    with pytest.raises(
        EnvironmentUnavailable, match=r"cannot be compiled: native\.cc:1:1: error: "
    ) as caught:
        ensure(native, report=report)
    log = wheels_root() / "demo-native-1.0.log"
    assert f"its whole output is in {log}" in str(caught.value)
    assert "native.cc:1:1: error" in log.read_text()
    assert [log.name] == kept()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a build says which process it is, and then waits until somebody writes."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    monkeypatch.setenv("GATE", str(path))
    return path


@pytest.fixture
def sitecustomize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes that make environments take the bundled pip too."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import ensurepip\n"
        "from dlperf.environments import builds\n"
        "builds._PIP = f'pip=={ensurepip.version()}'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.usefixtures("sitecustomize")
def test_two_builders_compile_once(native: EnvironmentSpec, builds_file: Path, gate: Path) -> None:
    waits = "another dlperf compiles demo-native==1.0; waiting for it"
    with maker(native) as first:
        gate.read_text()
        with maker(replace(native, import_check=CHECK + "\n")) as second:
            assert second.stderr is not None
            assert any(waits in line for line in second.stderr)
            gate.write_text("go on")
            first_python, _ = first.communicate(timeout=WAIT_SECONDS)
            second_python, _ = second.communicate(timeout=WAIT_SECONDS)
    assert len({first_python, second_python, ""}) == 3
    assert 1 == len(builds_file.read_text().splitlines())


@pytest.mark.usefixtures("sitecustomize")
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_builder_takes_its_compilers_along_and_leaves_nothing(
    death: signal.Signals,
    native: EnvironmentSpec,
    builds_file: Path,
    gate: Path,
    report: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with maker(native) as killed:
        compiling = os.pidfd_open(int(gate.read_text()))
        os.kill(killed.pid, death)
        killed.wait(timeout=WAIT_SECONDS)
    ended, _, _ = select.select([compiling], [], [], WAIT_SECONDS)
    os.close(compiling)
    assert [compiling] == ended
    monkeypatch.delenv("GATE")
    ensure(native, report=report)
    assert 2 == len(builds_file.read_text().splitlines())
    assert [key_of(native)] == kept()
