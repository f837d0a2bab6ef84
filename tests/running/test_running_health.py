"""What `dlperf doctor` makes of a machine; control groups as files of both versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi

from dlperf.adapters.registry import load_adapters
from dlperf.plan.machine import Machine, detect_machine
from dlperf.running.health import (
    CgroupLimits,
    Level,
    cgroup_limits,
    check_clock,
    check_cores,
    check_cpu_quota,
    check_disk,
    check_frequency,
    check_gpus,
    check_load,
    check_machine,
    check_memory,
    check_other_dlperf,
    check_variables,
)

if TYPE_CHECKING:
    from pathlib import Path

NO_LIMITS = CgroupLimits(cpus=None, memory_bytes=None)
GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_the_tightest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job\n",
            "sys/fs/cgroup/user/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user/job/memory.max": "8589934592\n",
            "sys/fs/cgroup/user/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/user/memory.max": "max\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(cpus=1.5, memory_bytes=8 * GIB)


def test_version_1_with_its_words_for_no_limit(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/init\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(cpus=0.5, memory_bytes=2 * GIB)


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == NO_LIMITS


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (check_cores(2, on_machine=8, physical=1), Level.OK, "2 of 8 CPUs available, on 1 physical core"),
        (check_cpu_quota(4, NO_LIMITS), Level.OK, "no control group"),
        (check_cpu_quota(4, CgroupLimits(cpus=1.5, memory_bytes=None)), Level.WARNING, "1.5 of 4 CPUs"),
        (check_load(0.4, cores=2), Level.OK, "load average 0.4 on 2 CPUs"),
        (check_load(0.6, cores=2), Level.WARNING, "load average 0.6 on 2 CPUs; other work now takes "),
        (check_frequency(governor=None, turbo=None), Level.UNKNOWN, "does not show the CPU frequency"),
        (check_frequency(governor="performance", turbo=True), Level.OK, "turbo on"),
        (check_frequency(governor="powersave", turbo=False), Level.WARNING, "cpupower"),
        (check_memory(16 * GIB, NO_LIMITS), Level.OK, "16.0 GiB available"),
        (
            check_memory(16 * GIB, CgroupLimits(cpus=None, memory_bytes=GIB)),
            Level.WARNING,
            "to 1.0 GiB",
        ),
        (check_clock("tsc"), Level.OK, "tsc"),
        (check_clock(None), Level.UNKNOWN, "does not show its clock source"),
        (check_clock("hpet"), Level.WARNING, "hpet is slow"),
        (check_variables({"NCLL_DEBUG": "1"}), Level.WARNING, "NCLL_DEBUG (did you mean NCCL_...?)"),
    ],
    ids=lambda value: value.check if hasattr(value, "check") else "",
)
def test_a_finding_says_how_bad_it_is_and_what_to_do(finding: object, level: Level, words: str) -> None:
    assert finding.level is level
    assert words in finding.text


def test_room_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    finding = check_disk("disk", tmp_path / "not" / "yet", needed=1)
    assert finding.level is Level.OK
    assert str(tmp_path) in finding.text
    assert check_disk("disk", tmp_path, needed=1 << 60).level is Level.WARNING


def test_a_file_in_the_way_is_bad(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    assert check_disk("disk", tmp_path / "results", needed=1).level is Level.BAD


def test_every_check_of_this_machine_gives_a_finding(tmp_path: Path) -> None:
    found = list(check_machine(tmp_path, adapters={}))
    assert len({finding.check for finding in found}) == len(found) >= 11
    assert all(finding.text and "\n" not in finding.text for finding in found)


def test_it_says_which_frameworks_the_gpus_here_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    v100, h200 = FakeGpu(name="Tesla V100", uuid="GPU-0"), FakeGpu(name="NVIDIA H200", uuid="GPU-1")
    write_nvidia_smi(tmp_path, v100, h200, apps=(("GPU-0", 7, "others"), ("GPU-1", 8, "python")))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = {issue.check: issue for issue in check_machine(tmp_path, adapters=load_adapters())}
    assert (Level.OK, "NVIDIA H200; driver 550.54.15") == (found["GPUs"].level, found["GPUs"].text)
    assert "used by process 8 python: stop them first" == found["GPU use"].text
    assert Level.WARNING is found["oneflow on GPUs"].level is found["mxnet on GPUs"].level
    assert found["oneflow on GPUs"].text.startswith("oneflow 0.9.0 has no code for compute capability 9.0")
    assert "2.13.0 in its build for CUDA 12.6" == found["pytorch on GPUs"].text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    found = {issue.check: issue for issue in check_machine(tmp_path, adapters=load_adapters())}
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine: correct it" == found["GPUs"].text


def test_what_nvidia_smi_says_in_place_of_gpus_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Unable to determine the device handle:'\necho 'GPU is lost'\nexit 15\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (issue,) = check_gpus(Machine(cores=1))
    assert Level.WARNING is issue.level
    assert "it says: Unable to determine the device handle: GPU is lost" in issue.text


def test_a_gpu_in_an_error_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(
        tmp_path,
        FakeGpu(name="NVIDIA A100", uuid="GPU-0"),
        FakeGpu(name="NVIDIA A100", uuid="[GPU requires reset]"),
        FakeGpu(name="[Unknown Error]", uuid="GPU-2"),
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    warnings = [issue.text for issue in check_gpus(detect_machine()) if issue.level is Level.WARNING]
    remedy = "reset it, or leave it out with CUDA_VISIBLE_DEVICES"
    assert [
        f"of GPU 1 nvidia-smi says [GPU requires reset]: {remedy}",
        f"of GPU 2 nvidia-smi says [Unknown Error]: {remedy}",
    ] == warnings


def test_the_command_prints_them_for_people_and_programs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dlperf", "doctor", "--results"]
    environment = os.environ | {"DLPERF_HOST_LOCK": str(tmp_path / "lock")}
    text = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "cores: " in text
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*command, str(tmp_path / "file"), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    levels = {finding["check"]: finding["level"] for finding in json.loads(done.stdout)}
    assert levels["disk for results"] == "bad"


def test_a_lock_that_cannot_be_made_is_not_another_dlperf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPERF_HOST_LOCK", "/proc/no/lock")
    finding = check_other_dlperf()
    assert (Level.BAD, "/proc/no/lock: No such file or directory; set DLPERF_HOST_LOCK to another file") == (
        finding.level,
        finding.text,
    )
