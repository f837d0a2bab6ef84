"""What a plan needs to know about this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import dlperf.plan.machine as machine_module
from dlperf.plan.machine import Machine, detect_machine, gpu_memory_bytes

if TYPE_CHECKING:
    from pathlib import Path

LISTED = ("NVIDIA H100", "NVIDIA H100", "NVIDIA H200")


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH whose nvidia-smi lists three GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{name}'\n" for name in LISTED))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine_module, "_QUOTA", tmp_path / "absent")
    assert Machine(cores=len(os.sched_getaffinity(0))) == detect_machine()


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_quota_leaves_fewer_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(machine_module, "_QUOTA", tmp_path / "cpu.max")
    assert cores == detect_machine().cores


@pytest.mark.usefixtures("three_gpus")
def test_the_gpus_are_those_that_nvidia_smi_lists() -> None:
    assert LISTED == tuple(gpu.name for gpu in detect_machine().gpus)
    assert "cuda" == detect_machine().device


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,0", 2), ("0,-1,1", 1), ("GPU-abc", 1)]
)
def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count == len(detect_machine().gpus)


def test_a_driver_that_does_not_answer_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert () == detect_machine().gpus


def test_a_machine_is_one_line_for_people() -> None:
    assert "1 CPU core, no NVIDIA GPU" == str(Machine(cores=1))
    assert "64 CPU cores, 2 x Tesla V100" == str(Machine(cores=64, gpus=("Tesla V100",) * 2))


@pytest.mark.parametrize(("printed", "size"), [("16160\n81559\n", 16160 << 20), ("", None), ("[N/A]", None)])
def test_the_memory_of_the_smallest_gpu_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, size: int | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert size == gpu_memory_bytes()
    tool.unlink()
    assert gpu_memory_bytes() is None
