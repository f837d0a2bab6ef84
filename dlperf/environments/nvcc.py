"""NVIDIA's compiler of a build: which one is used, with which host compiler, and whether the two fit.

A wrong pair fails after minutes, or not before the first run.
"""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlperf.adapters.base import NvccUse, SourceBuild
from dlperf.errors import EnvironmentUnavailable

_INSTALLED = Path("/usr/local")  # where NVIDIA's packages put cuda-11.8 and the like
_SECONDS = 60

# The newest GCC that nvcc takes as its host compiler (the toolkit's crt/host_config.h): by release, else by
# major version. With other versions nothing is compiled here.
_NEWEST_GCC = {"11.0": 9, "11.1": 10, "11.2": 10, "11.3": 10, "11": 11}
_ALLOW = "-allow-unsupported-compiler"  # with it nvcc takes any


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """What compiles a build for CUDA."""

    home: Path  # the toolkit's folder, with bin/nvcc
    release: str  # of the toolkit, such as `11.8.89`
    compiler: str  # the host compiler, as CXX says it
    compiler_version: str  # such as `gcc11.3.0`
    stub: Path | None  # what stands in for the driver's library; None where there is a driver

    @property
    def label(self) -> str:
        """For the name of a wheel."""
        return f"nvcc{self.release}-{self.compiler_version}"

    def variables(self) -> dict[str, str]:
        """With which a build uses the host compiler; that of C is the one beside that of C++."""
        program, *options = shlex.split(self.compiler)
        folder, _, name = program.rpartition("/")
        name = name.replace("clang++", "clang").replace("g++", "gcc").replace("c++", "cc")
        c_compiler = f"{folder}/{name}" if folder else name
        return {"CXX": self.compiler, "CC": shlex.join([c_compiler, *options])}


def find_toolchain(build: SourceBuild) -> Toolchain | None:
    """The toolkit and the host compiler for `build`; None where it needs no nvcc.

    EnvironmentUnavailable with what to install where there is none, or only one that cannot compile it.
    """
    if build.nvcc is None:
        return None
    home, release = _toolkit(build.requirement, build.nvcc)
    compiler, version = _host_compiler(build.requirement, release)
    return Toolchain(
        home=home, release=release, compiler=compiler, compiler_version=version, stub=_driver_stub(home)
    )


def _toolkit(requirement: str, use: NvccUse) -> tuple[Path, str]:
    """The toolkit's folder and release."""
    given = os.environ.get(use.home)
    others = []
    for home in [Path(given).absolute()] if given else _homes(use.cuda):
        release = _release(home)
        if release is not None and release.partition(".")[0] == use.cuda:
            return home, release
        if release is not None:
            others.append(f"{home / 'bin' / 'nvcc'} is of CUDA {release}")
    none = f"{use.home}={given} has no bin/nvcc that runs" if given else "there is none"
    raise EnvironmentUnavailable(
        f"{requirement} must be compiled with nvcc of CUDA {use.cuda}, and {(others or [none])[0]}: install "
        f"NVIDIA's package {use.package}; where it is not in {_INSTALLED}, set {use.home} to its folder"
    )


def _homes(major: str) -> Iterator[Path]:
    """Where a toolkit may be, the user's choice first."""
    program = shutil.which("nvcc")
    if program is not None:
        yield Path(program).absolute().parent.parent
    yield from (Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name))
    yield from sorted(_INSTALLED.glob(f"cuda-{major}*"), reverse=True)
    yield _INSTALLED / "cuda"


def _release(home: Path) -> str | None:
    """The release of the nvcc in a toolkit's folder, such as `11.8.89`; None where there is none."""
    if not (home / "include" / "cuda_runtime.h").exists():
        return None  # the program on PATH may only call that of another folder
    match = re.search(r"release [0-9.]+, V([0-9.]+)", _output(str(home / "bin" / "nvcc"), "--version"))
    return match[1] if match else None


def _host_compiler(requirement: str, release: str) -> tuple[str, str]:
    """The command of the host compiler, that of CXX if it is set, and its version."""
    major, minor = release.split(".")[:2]
    newest = _NEWEST_GCC.get(f"{major}.{minor}", _NEWEST_GCC.get(major))
    given = os.environ.get("CXX")
    older = [f"g++-{number}" for number in range(newest, newest - 3, -1)] if newest else []
    candidates = [given] if given else ["c++", "g++", *older]
    refused = []
    for command in candidates:
        version = _compiler_version(command)
        if version is None:
            continue
        gcc = re.match(r"gcc(\d+)", version)
        if gcc is None or newest is None or int(gcc[1]) <= newest or _is_allowed():
            return command, version
        refused.append(f"{command} is {version}")
    raise EnvironmentUnavailable(
        f"{requirement} must be compiled with nvcc of CUDA {major}.{minor}, which takes GCC {newest} or "
        f"older, and {(refused or [f'{candidates[0]} does not run'])[0]}: Debian, Ubuntu: apt install "
        f"g++-{newest}; where it has another name, set CXX to it"
    )


def _is_allowed() -> bool:
    """Whether the user takes the risk of a compiler that nvcc does not know."""
    return any(_ALLOW in os.environ.get(name, "") for name in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"))


def _compiler_version(command: str) -> str | None:
    """Such as `gcc11.3.0`; None where it does not run."""
    first, _, _ = _output(*shlex.split(command), "--version").partition("\n")
    numbers = re.findall(r"\d+\.\d+\.\d+", first)
    return f"{'clang' if 'clang' in first.lower() else 'gcc'}{numbers[-1]}" if numbers else None


def _output(*command: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _driver_stub(home: Path) -> Path | None:
    """The toolkit's stand-in for the driver's library; None where there is a driver.

    A build imports the framework, which without that library cannot be loaded. EnvironmentUnavailable where
    the toolkit has none.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        return None
    for folder in ("lib64", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu"):
        stub = home / folder / "stubs" / "libcuda.so"
        if stub.exists():
            return stub
    raise EnvironmentUnavailable(
        f"there is no NVIDIA driver here, and {home} has no lib64/stubs/libcuda.so in its place: "
        "install NVIDIA's package cuda-driver-dev of that toolkit, or compile on a machine with a GPU"
    )
