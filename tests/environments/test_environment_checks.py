"""What is checked where there is a GPU, and what is said where there is none."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.base import CudaBuild
from dlperf.adapters.registry import load_adapters
from dlperf.environments import ensure
from dlperf.environments.checks import check_source
from dlperf.environments.environment import check, environment_key, read_environment
from dlperf.environments.make import adopting_request, making_request
from dlperf.errors import EnvironmentUnavailable
from dlperf.plan.machine import Gpu, Machine
from frameworks.node import Refused
from frameworks.node.environments import checked, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.adapters.base import EnvironmentSpec

NO_DRIVER = "that it works on a GPU: there is no NVIDIA driver here"
BUILT = "raise AssertionError('another build')"
BROKEN = "raise AssertionError('no kernel image is available')"


@pytest.fixture
def put_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A double of the driver's library that shows this many GPUs: there may be no driver here."""

    def put(count: int) -> None:
        folder = tmp_path / "driver"
        folder.mkdir(exist_ok=True)
        source = f"""
            extern "C" int cuInit(unsigned) {{ return {0 if count else 100}; }}
            extern "C" int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
        """
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", folder / "libcuda.so.1"]
        subprocess.run(command, input=source, text=True, check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))

    return put


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver here")
def test_without_a_driver_the_gpu_is_left_for_the_first_run(
    demo: EnvironmentSpec, report: Callable[[str], None], said: list[str]
) -> None:
    environment = ensure(replace(demo, gpu_check=BROKEN), report=report)
    assert f"  not verified: {NO_DRIVER}; the first run will show it" in said
    assert (NO_DRIVER,) == environment.manifest.unverified
    assert environment == read_environment(environment.root)
    assert environment_key(demo) == environment.key


def test_a_driver_without_a_gpu_is_said_too(
    demo: EnvironmentSpec, report: Callable[[str], None], put_driver: Callable[[int], None]
) -> None:
    put_driver(0)
    (line,) = ensure(replace(demo, gpu_check=BROKEN), report=report).manifest.unverified
    assert "that it works on a GPU: the NVIDIA driver shows no GPU here (cuInit: 100)" == line


def test_on_a_gpu_it_is_tried(
    demo: EnvironmentSpec, report: Callable[[str], None], put_driver: Callable[[int], None]
) -> None:
    put_driver(2)
    with pytest.raises(EnvironmentUnavailable, match=r"does not work with .*: AssertionError: no kernel"):
        ensure(replace(demo, gpu_check=BROKEN), report=report)
    assert () == ensure(replace(demo, gpu_check="import sys"), report=report).manifest.unverified


def test_an_environment_for_the_gpus_of_other_machines_is_not_tried_on_those_of_this_one(
    demo: EnvironmentSpec, put_driver: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is copied to nodes, or `env create --capability`."""
    put_driver(1)
    here = Machine(cores=1, gpus=(Gpu(name="H100", capability="9.0"),))
    monkeypatch.setattr("dlperf.environments.environment.detect_machine", lambda: here)
    spec = replace(demo, import_check="print('1.0')", gpu_check=BROKEN)
    older = replace(spec, cuda=CudaBuild(toolkit="11.2", capabilities=("7.0", "8.0")))
    (line,) = check(older, Path(sys.executable)).unverified
    assert line.startswith("that it works on a GPU: demo 1.0 has no code for compute capability 9.0 (H100)")
    with pytest.raises(EnvironmentUnavailable, match="no kernel image"):
        check(replace(spec, cuda=CudaBuild(toolkit="12.6", capabilities=("9.0",))), Path(sys.executable))


def test_the_build_is_checked_where_dlperf_chose_it(
    demo: EnvironmentSpec, report: Callable[[str], None]
) -> None:
    own = ensure(demo, report=report)
    other = replace(demo, build_check=BUILT, requirements=("demo-engine==1.0", "demo-engine<2"))
    with pytest.raises(EnvironmentUnavailable, match="AssertionError: another build"):
        ensure(other, report=report)
    assert "1.0" == ensure(other, python=own.python, report=report).manifest.version


def test_a_node_checks_the_same(demo: EnvironmentSpec, put_driver: Callable[[int], None]) -> None:
    put_driver(0)
    here = replace(demo, import_check="print('1.0')", gpu_check=BROKEN, build_check=BUILT)
    asked = adopting_request(here, Path(sys.executable))
    answer = checked(asked["python"], asked["probe"], asked["import_check"])
    assert "1.0" == answer["version"]
    assert ["that it works on a GPU: the NVIDIA driver shows no GPU here (cuInit: 100)"] == answer[
        "unverified"
    ]
    with pytest.raises(Refused, match="another build"):
        checked(sys.executable, asked["probe"], making_request(here)["import_check"])


GLOG = """
import os, sys
sys.stderr.write('''\\
W20261130 16:30:29.041565 28016 descriptor.cpp:48] CUDA driver version is insufficient
F20261130 16:30:30.355254 28016 cuda_util.cpp:137] Check failed: cudaGetDevice(&id) : insufficient (35)
*** Check failure stack trace: ***
    @     0x7f1a721d09ca  google::LogMessage::Fail()
''')
sys.stderr.flush()
os.abort()
"""


def test_an_engine_that_aborts_gives_its_reason_not_its_stack(demo: EnvironmentSpec) -> None:
    reason = "Check failed: cudaGetDevice(&id) : insufficient (35)"
    with pytest.raises(EnvironmentUnavailable) as caught:
        check(replace(demo, import_check=GLOG), Path(sys.executable))
    assert str(caught.value).endswith(f": {reason}")
    with pytest.raises(Refused) as refused:
        checked(sys.executable, "print('{}')", GLOG)
    assert str(refused.value).endswith(f": {reason}")


def test_a_check_that_hangs_on_a_node_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frameworks.node.environments.CHECK_SECONDS", 0.1)
    with pytest.raises(Refused, match=r"gave no answer within 0\.1 s"):
        checked(sys.executable, "import signal; signal.pause()", "print('1.0')")


def test_a_node_takes_wheels_of_the_folders_that_it_has_too(tmp_path: Path) -> None:
    """With a program in uv's place that says where it would look."""
    said: list[str] = []
    program = tmp_path / "uv"
    program.write_text('#!/bin/sh\necho "$UV_FIND_LINKS"\n')
    program.chmod(0o755)
    places = {"UV_FIND_LINKS": f"/nowhere,https://b.example/x,{tmp_path}"}
    step(str(program), ["pip", "install"], places, lambda answer: said.append(answer["progress"]))
    assert [f"https://b.example/x,{tmp_path}"] == said


def test_a_specification_for_the_cpu_is_checked_by_its_import_alone(demo: EnvironmentSpec) -> None:
    assert demo.import_check == check_source(demo)


def test_environments_for_the_cpu_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay valid: a new name would download and compile everything again."""
    monkeypatch.setattr("sysconfig.get_platform", lambda: "linux-x86_64")
    adapters = load_adapters()
    names = {
        environment_key(adapters[name].environment(version, "cpu", parallel=parallel))
        for name, version, parallel in (
            ("mxnet", "1.9.1", False),
            ("mxnet", "1.9.1", True),
            ("oneflow", "0.9.0", False),
            ("pytorch", "2.13.0", False),
        )
    }
    assert {
        "mxnet-1.9.1-1b7643d34be4",
        "mxnet-1.9.1-f7eea145832f",
        "oneflow-0.9.0-af5a657eb83b",
        "pytorch-2.13.0-abdf666bbb58",
    } == names


def test_the_cuda_build_stands_in_the_name(demo: EnvironmentSpec) -> None:
    older, newer = (replace(demo, torch_backend=backend) for backend in ("cu126", "cu130"))
    assert environment_key(older).startswith("demo-1.0-cu126-")
    assert environment_key(newer).startswith("demo-1.0-cu130-")
    assert environment_key(newer) == environment_key(replace(newer, torch_on_pypi=True))
