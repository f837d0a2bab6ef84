"""The compilers of a build for CUDA, with programs in their place that say their version: none are here."""

from __future__ import annotations

import ctypes.util
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.base import SourceBuild
from dlperf.adapters.mxnet import ADAPTER
from dlperf.environments.builds import built_wheel, wheel_key, wheels_root
from dlperf.environments.nvcc import Toolchain, find_toolchain
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dlperf.adapters.base import EnvironmentSpec


@pytest.fixture
def spec() -> EnvironmentSpec:
    return ADAPTER.environment("1.9.1", "cuda", parallel=True)


@pytest.fixture
def horovod(spec: EnvironmentSpec) -> SourceBuild:
    (build,) = spec.builds
    return build


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, and no toolkit or compiler anywhere else."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("dlperf.environments.nvcc._INSTALLED", tmp_path / "local")
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "HOROVOD_CUDA_HOME", "NVCC_PREPEND_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    return folder


def put_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)


def put_toolkit(home: Path, release: str) -> Path:
    minor = release.rpartition(".")[0]
    put_program(home / "bin" / "nvcc", f"Cuda compilation tools, release {minor}, V{release}")
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime.h").touch()
    (home / "lib64" / "stubs").mkdir(parents=True)
    (home / "lib64" / "stubs" / "libcuda.so").touch()
    return home


def put_gcc(programs: Path, name: str, version: str) -> None:
    put_program(programs / name, f"{name} (Debian {version}-14+deb12u1) {version}")


def refusal(build: SourceBuild) -> str:
    with pytest.raises(EnvironmentUnavailable) as caught:
        find_toolchain(build)
    return str(caught.value)


def found(build: SourceBuild) -> Toolchain:
    toolchain = find_toolchain(build)
    assert toolchain is not None
    return toolchain


def test_a_build_without_nvcc_asks_for_no_toolchain(horovod: SourceBuild, programs: Path) -> None:
    del programs
    assert find_toolchain(replace(horovod, nvcc=None)) is None


def test_another_cuda_is_refused_with_what_to_install(horovod: SourceBuild, programs: Path) -> None:
    put_gcc(programs, "g++", "11.3.0")
    assert refusal(horovod) == (
        "horovod==0.28.1 must be compiled with nvcc of CUDA 11, and there is none: install NVIDIA's package "
        f"cuda-toolkit-11-8; where it is not in {programs.parent / 'local'}, set HOROVOD_CUDA_HOME to its "
        "folder"
    )
    home = put_toolkit(programs.parent / "thirteen", "13.0.88")
    os.environ["PATH"] += f":{home / 'bin'}"
    assert f"nvcc of CUDA 11, and {home}/bin/nvcc is of CUDA 13.0.88: install" in refusal(horovod)


def test_the_users_toolkit_is_the_one_that_is_used(
    horovod: SourceBuild, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOROVOD_CUDA_HOME wins, and where it is wrong no other takes its place."""
    put_gcc(programs, "g++", "10.2.1")
    put_toolkit(programs.parent / "local" / "cuda-11.8", "11.8.89")
    own = put_toolkit(programs.parent / "own", "11.2.152")
    monkeypatch.setenv("HOROVOD_CUDA_HOME", str(own))
    assert (own, "nvcc11.2.152-gcc10.2.1") == (found(horovod).home, found(horovod).label)
    monkeypatch.setenv("HOROVOD_CUDA_HOME", "/nowhere")
    assert "and HOROVOD_CUDA_HOME=/nowhere has no bin/nvcc that runs: install" in refusal(horovod)


def test_a_toolkit_of_the_right_cuda_is_found_beside_another(
    horovod: SourceBuild, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_gcc(programs, "g++", "11.3.0")
    local = programs.parent / "local"
    for release in ("13.0.88", "11.2.152", "11.8.89"):
        put_toolkit(local / f"cuda-{release.rpartition('.')[0]}", release)
    (local / "cuda").symlink_to("cuda-13.0")
    monkeypatch.setenv("CUDA_HOME", str(local / "cuda"))
    assert local / "cuda-11.8" == found(horovod).home


def test_a_program_that_calls_a_toolkit_elsewhere_is_none(horovod: SourceBuild, programs: Path) -> None:
    """Such as /usr/local/bin/nvcc: libraries and headers are not beside it."""
    put_gcc(programs, "g++", "11.3.0")
    put_program(programs / "nvcc", "Cuda compilation tools, release 11.8, V11.8.89")
    assert "and there is none: install" in refusal(horovod)
    home = put_toolkit(programs.parent / "local" / "cuda-11.8", "11.8.89")
    assert home == found(horovod).home


@pytest.mark.parametrize(
    ("toolkit", "gcc", "newest"),
    [
        ("11.2.152", "10.2.1", None),
        ("11.2.152", "11.3.0", 10),
        ("11.4.152", "11.3.0", None),
        ("11.8.89", "11.3.0", None),
        ("11.8.89", "12.2.0", 11),
    ],
)
def test_a_host_compiler_that_is_too_new_is_refused(
    horovod: SourceBuild, programs: Path, toolkit: str, gcc: str, newest: int | None
) -> None:
    put_toolkit(programs.parent / "local" / "cuda", toolkit)
    put_gcc(programs, "g++", gcc)
    if newest is None:
        assert f"nvcc{toolkit}-gcc{gcc}" == found(horovod).label
        return
    release = toolkit.rpartition(".")[0]
    assert refusal(horovod) == (
        f"horovod==0.28.1 must be compiled with nvcc of CUDA {release}, which takes GCC {newest} or older, "
        f"and g++ is gcc{gcc}: Debian, Ubuntu: apt install g++-{newest}; where it has another name, set CXX "
        "to it"
    )
    put_gcc(programs, f"g++-{newest}", f"{newest}.4.0")
    expected = {"CXX": f"g++-{newest}", "CC": f"gcc-{newest}"}
    assert expected == found(horovod).variables()


def test_the_users_compiler_wins_and_may_be_a_risk(
    horovod: SourceBuild, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_toolkit(programs.parent / "local" / "cuda", "11.8.89")
    put_gcc(programs, "g++", "11.3.0")
    put_gcc(programs, "mine-g++", "12.2.0")
    monkeypatch.setenv("CXX", f"{programs}/mine-g++")
    assert f"{programs}/mine-g++ is gcc12.2.0" in refusal(horovod)
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-allow-unsupported-compiler")
    assert {"CXX": f"{programs}/mine-g++", "CC": f"{programs}/mine-gcc"} == found(horovod).variables()
    put_program(programs / "clang++-14", "Debian clang version 14.0.6")
    monkeypatch.delenv("NVCC_PREPEND_FLAGS")
    monkeypatch.setenv("CXX", "clang++-14")
    assert "clang-14" == found(horovod).variables()["CC"]
    assert "nvcc11.8.89-clang14.0.6" == found(horovod).label


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver here")
def test_the_toolkits_stub_stands_in_for_the_driver(horovod: SourceBuild, programs: Path) -> None:
    """MXNet for CUDA cannot be imported without it, and Horovod's build imports MXNet."""
    put_gcc(programs, "g++", "11.3.0")
    home = put_toolkit(programs.parent / "local" / "cuda", "11.8.89")
    stub = home / "lib64" / "stubs" / "libcuda.so"
    assert stub == found(horovod).stub
    stub.unlink()
    assert f"there is no NVIDIA driver here, and {home} has no lib64/stubs/libcuda.so" in refusal(horovod)


def test_the_toolchain_stands_in_the_name_of_the_wheel(
    spec: EnvironmentSpec, horovod: SourceBuild, programs: Path, report: Callable[[str], None]
) -> None:
    """A wheel of another toolkit or compiler is not taken; without any, one that was compiled before is."""
    python = Path("/proc/self/exe").resolve()
    minor = "".join(platform.python_version_tuple()[:2])
    key = wheel_key(horovod, spec, platform.python_version())
    assert key.startswith(f"horovod-0.28.1-cp{minor}-")

    def never(folder: Path, requirements: Sequence[str]) -> Path:
        raise AssertionError(f"{folder} {requirements}")

    wheel = wheels_root() / f"{key}-nvcc11.8.89-gcc11.3.0" / "horovod-0.28.1-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert wheel == built_wheel(horovod, spec, python=python, make_scratch=never, report=report)
    for name in ("make", "g++"):
        put_gcc(programs, name, "11.3.0")
    put_toolkit(programs.parent / "local" / "cuda", "11.8.89")
    assert wheel == built_wheel(horovod, spec, python=python, make_scratch=never, report=report)
    put_gcc(programs, "g++", "10.2.1")
    with pytest.raises(AssertionError, match="nvidia-nccl-cu11"):
        built_wheel(horovod, spec, python=python, make_scratch=never, report=report)


def test_a_wheel_for_the_cpu_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays valid: compiling takes minutes."""
    monkeypatch.setattr("sysconfig.get_platform", lambda: "linux-x86_64")
    spec = ADAPTER.environment("1.9.1", "cpu", parallel=True)
    assert "horovod-0.28.1-cp310-f1c3781be1cd" == wheel_key(spec.builds[0], spec, "3.10.13")
