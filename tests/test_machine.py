"""What a plan needs to know about this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi

import dlperf.plan.machine as machine_module
from dlperf.plan.machine import Gpu, Machine, detect_machine
from dlperf.running.transports.local import this_node

if TYPE_CHECKING:
    from pathlib import Path

A100 = FakeGpu(name="NVIDIA A100-SXM4-40GB", capability="8.0", mebibytes=40960, uuid="GPU-aaaa1111-0")
H100 = FakeGpu(name="NVIDIA H100 80GB HBM3", capability="9.0", uuid="GPU-aaaa2222-0")
SMALL, LARGE = ("1g.5gb", "MIG-11111111-0", 4864), ("3g.20gb", "MIG-22222222-0", 19968)
DIVIDED = FakeGpu(
    name="NVIDIA A100-SXM4-40GB", capability="8.0", uuid="GPU-bbbb3333-0", instances=(SMALL, LARGE)
)
OLD_NAMES = ("1g.5gb", "MIG-GPU-cccc4444-0/7/0", 4864), ("3g.20gb", "MIG-GPU-cccc4444-0/2/0", 19968)


@pytest.fixture(autouse=True)
def alone_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool of this machine, so that it has the GPUs that the test gives it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def names() -> list[str]:
    return [gpu.name for gpu in detect_machine().gpus]


def test_the_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_module, "_QUOTA", tmp_path / "absent")
    assert Machine(cores=len(os.sched_getaffinity(0))) == detect_machine()


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_quota_leaves_fewer_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(machine_module, "_QUOTA", tmp_path / "cpu.max")
    assert cores == detect_machine().cores


def test_the_gpus_are_those_that_nvidia_smi_lists(tmp_path: Path) -> None:
    write_nvidia_smi(tmp_path, A100, H100)
    machine = detect_machine()
    assert "cuda" == machine.device
    assert (
        Gpu(
            name="NVIDIA A100-SXM4-40GB",
            capability="8.0",
            driver="550.54.15",
            memory_bytes=40960 << 20,
            uuid="GPU-aaaa1111-0",
            index=0,
        )
        == machine.gpus[0]
        == machine.gpu
    )
    assert (40960 << 20) == machine.gpu_memory_bytes


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 1 , 0", [1, 0]),
        ("0,-1,1", [0]),
        ("7", []),  # it names none
        ("1,7,0", [1]),  # what follows the first mistake is not read
        ("1,1", []),  # nothing may stand twice
        ("0,1x", [0, 1]),
        ("GPU-aaaa2222-0", [1]),
        ("GPU-aaaa2", [1]),  # the beginning is enough where no other GPU has it
        ("GPU-aaaa", []),
        ("GPU-bbbb,GPU-aaaa1", [2, 0]),
        ("GPU-aaaa1,1", [0]),  # numbers and UUIDs do not mix
        ("0,GPU-aaaa2", [0]),
        ("GPU-ffff", []),
    ],
)
def test_a_process_sees_the_gpus_that_cuda_visible_devices_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, indices: list[int]
) -> None:
    write_nvidia_smi(tmp_path, A100, H100, FakeGpu(name="NVIDIA H200", uuid="GPU-bbbb5555-0"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert indices == [gpu.index for gpu in detect_machine().gpus]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),  # one instance, and no GPU beside it
        ("0", ["NVIDIA H100 80GB HBM3"]),
        ("1", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),
        ("GPU-bbbb", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),
        ("MIG-22222222-0", ["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]),
        ("MIG-2222,MIG-1111", ["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]),
        ("MIG-9999", []),
        ("MIG-GPU-cccc4444-0/2/0", ["Old MIG 3g.20gb"]),  # as drivers before 470 name them
    ],
)
def test_an_instance_of_a_gpu_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    old = FakeGpu(name="Old", uuid="GPU-cccc4444-0", instances=OLD_NAMES)
    write_nvidia_smi(tmp_path, H100, DIVIDED, old)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert expected == names()


def test_an_instance_has_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, H100, DIVIDED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-2222")
    (gpu,) = detect_machine().gpus
    assert ("8.0", 19968 << 20, True) == (gpu.capability, gpu.memory_bytes, gpu.mig)


def test_a_divided_gpu_without_instances_is_of_no_use(tmp_path: Path) -> None:
    write_nvidia_smi(tmp_path, FakeGpu(name="NVIDIA A100", divided=True), H100)
    assert ["NVIDIA H100 80GB HBM3"] == names()


@pytest.mark.parametrize("unknown", [("compute_cap",), ("compute_cap", "mig.mode.current")])
def test_an_old_driver_says_less(tmp_path: Path, unknown: tuple[str, ...]) -> None:
    write_nvidia_smi(tmp_path, FakeGpu(name="Tesla V100-SXM2-16GB", driver="440.33.01"), unknown=unknown)
    (gpu,) = detect_machine().gpus
    assert ("Tesla V100-SXM2-16GB", None, "440.33.01") == (gpu.name, gpu.capability, gpu.driver)


def test_a_warning_beside_the_answer_changes_nothing(tmp_path: Path) -> None:
    write_nvidia_smi(tmp_path, A100, H100)
    without = detect_machine()
    write_nvidia_smi(tmp_path, A100, H100, corrupted=True)
    assert without == detect_machine()
    assert without.gpus


def test_a_driver_that_does_not_answer_means_no_gpu(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(0o755)
    assert () == detect_machine().gpus


def test_a_machine_is_one_line_for_people() -> None:
    assert "1 CPU core, no NVIDIA GPU" == str(Machine(cores=1))
    assert "64 CPU cores, 2 x Tesla V100" == str(Machine(cores=64, gpus=("Tesla V100",) * 2))
    assert "8 CPU cores, 2 x T4, 1 x L4" == str(Machine(cores=8, gpus=("T4", "L4", "T4")))


@pytest.mark.parametrize(
    ("visible", "mebibytes"), [("0,1", 40960), ("1", 81559), ("", None), ("MIG-1111", 4864)]
)
def test_the_memory_of_the_smallest_visible_gpu_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, mebibytes: int | None
) -> None:
    write_nvidia_smi(tmp_path, A100, H100, DIVIDED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = None if mebibytes is None else mebibytes << 20
    assert expected == detect_machine().gpu_memory_bytes


def test_results_name_the_gpus_that_a_run_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, A100, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    node = this_node()
    assert (("NVIDIA H100 80GB HBM3",), "550.54.15") == (node.accelerators, node.driver)
