from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import case_of, launch_of
from pydantic import ValidationError

from dlperf.adapters.base import Launch
from dlperf.adapters.pytorch import ADAPTER, PyTorchOptions
from dlperf.environments.environment import environment_key
from dlperf.files import shipped_root
from dlperf.plan.case import Case, Topology
from dlperf.plan.machine import Gpu
from frameworks.pytorch import too_old


def case(**changes: Any) -> Case:
    return case_of(ADAPTER, **changes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_parallelism_and_precision_is_supported(precision: str, device: str) -> None:
    for parallelism, ratio in (("data", None), ("model", None), ("partial_fc", 0.1)):
        for topology in ("1n1g", "1n4g", "2n8g"):
            changes = {"parallelism": parallelism, "sample_ratio": ratio, "device": device}
            whole = case(**changes, precision=precision, topology=Topology.from_text(topology))
            assert ADAPTER.unsupported(whole) is None


def test_a_batch_of_one_has_no_statistics_unless_they_are_frozen() -> None:
    one = case(batch_size_per_device=1)
    frozen = one.workload.model_copy(update={"batch_norm": "frozen"})

    reason = "PyTorch's BatchNorm refuses to train on one value a channel: the embedding of a batch of 1"
    assert reason == ADAPTER.unsupported(one)
    assert ADAPTER.unsupported(one.model_copy(update={"workload": frozen})) is None


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.8.1+wheel.0a1b2c3d", "the training programs need PyTorch 2.9 or newer"),
        ("1.13.1", "the training programs need PyTorch 2.9 or newer"),
        ("2.9.0", None),
        ("2.11.0+cu130", None),
        ("2.14.0.dev20261101+index.0a1b2c3d", None),
        ("nightly", None),
    ],
)
def test_a_version_that_lacks_what_the_programs_call_is_refused(version: str, reason: str | None) -> None:
    """By the plan, for wheels and indexes; by the programs too, for an interpreter of the user's own."""
    assert reason == ADAPTER.unsupported(case().model_copy(update={"version": version}))
    assert (reason is None) == (too_old(version) is None)


def test_the_programs_say_on_one_line_that_torch_is_too_old(tmp_path: Path) -> None:
    metadata = tmp_path / "torch-2.8.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\n")
    paths = f"{shipped_root()}:{tmp_path}"
    command = [sys.executable, "-m", "frameworks.pytorch.train", "case.json"]
    done = subprocess.run(
        command, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert 1 == done.returncode
    assert "PyTorch 2.8.0 is too old: these programs need 2.9 or newer\n" == done.stderr


def test_the_environment_of_the_cpu_takes_the_small_wheel() -> None:
    spec = ADAPTER.environment("2.13.0", "cpu")

    decoder = "opencv-python-headless==4.13.0.92"
    assert ("torch==2.13.0", "numpy==2.4.6", decoder) == spec.requirements
    assert ("cpu", ("3.11", "3.12", "3.13")) == (spec.torch_backend, spec.pythons)
    assert (None, None) == (spec.build_check, spec.gpu_check)


def gpu(capability: str | None, driver: str | None) -> Gpu:
    return Gpu(name="GPU", capability=capability, driver=driver)


@pytest.mark.parametrize(
    ("described", "backend"),
    [
        (None, "cu126"),
        (gpu(None, None), "cu126"),
        (gpu(None, "580.65.06"), "cu126"),
        (gpu("9.0", None), "cu126"),
        (gpu("7.0", "580.65.06"), "cu126"),  # Volta, which CUDA 13 has left behind
        (gpu("7.5", "580.65.06"), "cu130"),
        (gpu("9.0", "535.183.01"), "cu126"),
        (gpu("9.0", "575.57.08"), "cu126"),
        (gpu("9.0", "580.65.06"), "cu130"),
        (gpu("8.0", "595.10"), "cu130"),
        (gpu("10.0", "575.57.08"), "cu130"),  # which cu126 has no code for
        (gpu("12.0", None), "cu130"),
    ],
)
def test_the_build_for_cuda_follows_the_gpu_and_its_driver(described: Gpu | None, backend: str) -> None:
    spec = ADAPTER.environment("2.13.0", "cuda", gpu=described)

    assert backend == spec.torch_backend
    assert environment_key(spec).startswith(f"pytorch-2.13.0-{backend}-")
    assert (backend == "cu130") == spec.torch_on_pypi


FAKE_TORCH = """
__version__ = "2.13.0+x"
class version:
    cuda = {toolkit!r}
class cuda:
    device_count = staticmethod(lambda: 2)
class ones:
    devices = []
    def __init__(self, count, device):
        self.devices.append(device)
    def add(self, one):
        return self
    sum = item = lambda self, *_: self
    def __eq__(self, number):
        return {works} and number == 16
"""


def run_check(source: str, tmp_path: Path, *, toolkit: str | None, works: bool = True) -> str:
    """What a check prints with a torch that says what it was built for."""
    (tmp_path / "torch.py").write_text(FAKE_TORCH.format(toolkit=toolkit, works=works))
    (tmp_path / "numpy.py").touch()
    # -B: byte code of a torch written in the same second would pass for this one's.
    command = [sys.executable, "-B", "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    return (done.stdout or done.stderr).strip().splitlines()[-1] if done.stdout or done.stderr else ""


def test_the_checks_of_a_cuda_build_prove_its_toolkit_and_launch_a_kernel(tmp_path: Path) -> None:
    spec = ADAPTER.environment("2.13.0", "cuda")
    assert spec.build_check is not None
    assert spec.gpu_check is not None

    assert "2.13.0+x" == run_check(spec.import_check, tmp_path, toolkit="12.8")
    assert run_check(spec.import_check, tmp_path, toolkit=None).endswith("2.13.0+x, is not for CUDA")
    assert "" == run_check(spec.build_check, tmp_path, toolkit="12.6")
    other = run_check(spec.build_check, tmp_path, toolkit="13.0")
    assert other.endswith("this build of PyTorch is for CUDA 13.0, not 12.6")
    assert "" == run_check(spec.gpu_check, tmp_path, toolkit="12.6")
    assert "AssertionError" == run_check(spec.gpu_check, tmp_path, toolkit="12.6", works=False)
    both = f"{spec.gpu_check}\nprint(torch.ones.devices)"
    assert "['cuda:0', 'cuda:1']" == run_check(both, tmp_path, toolkit="12.6")


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"pytorch 1\.0 is unknown; known versions: 2\.13\.0"):
        ADAPTER.environment("1.0", "cpu")


def launch(topology: str, *, device: str = "cpu", interface: str | None = None) -> Launch:
    return launch_of(case(topology=Topology.from_text(topology), device=device), interface=interface)


def test_a_rank_is_one_process_of_the_training_program() -> None:
    (command,) = ADAPTER.rank_commands(launch("1n1g"))

    assert ("/environment/bin/python", "-m", "frameworks.pytorch.train", "/run/case.json") == command.argv
    expected = {
        "PYTHONPATH": "/code",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "DLPERF_RANK": "0",
        "DLPERF_LOCAL_RANK": "0",
        "DLPERF_NODE_RANK": "0",
        "DLPERF_WORLD_SIZE": "1",
        "DLPERF_LOCAL_WORLD_SIZE": "1",
        "DLPERF_MASTER_ADDRESS": "10.0.0.1",
        "DLPERF_MASTER_PORT": "1234",
    }
    assert expected == command.env


def test_several_ranks_are_a_process_each() -> None:
    commands = ADAPTER.rank_commands(launch("2n2g"))

    assert [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")] == [
        (command.env["DLPERF_RANK"], command.env["DLPERF_LOCAL_RANK"]) for command in commands
    ]
    assert {1} == {command.devices for command in commands}


@pytest.mark.parametrize(
    ("topology", "device", "interface", "expected"),
    [
        ("1n2g", "cpu", None, {"GLOO_SOCKET_IFNAME": "lo"}),
        ("2n2g", "cpu", "eth1", {"GLOO_SOCKET_IFNAME": "eth1"}),
        ("2n2g", "cpu", None, {}),
        ("1n2g", "cuda", None, {}),
        ("2n2g", "cuda", "ib0", {"NCCL_SOCKET_IFNAME": "ib0"}),
    ],
)
def test_ranks_speak_over_the_interface_that_is_given(
    topology: str, device: str, interface: str | None, expected: dict[str, str]
) -> None:
    for command in ADAPTER.rank_commands(launch(topology, device=device, interface=interface)):
        assert expected == {name: text for name, text in command.env.items() if "SOCKET_IFNAME" in name}


def test_options_left_out_follow_the_device_and_are_not_written_into_the_case() -> None:
    assert {"tf32": False} == PyTorchOptions().model_dump(exclude_none=True)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="chanels_last"):
        PyTorchOptions.model_validate({"chanels_last": True})
