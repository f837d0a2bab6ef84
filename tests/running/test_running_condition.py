"""What `dlperf doctor` and `dlperf cluster check` make of what a machine says of itself.

The program that looks is the real one; as no machine that runs the tests has a GPU, nvidia-smi is a stand-in.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi

from dlperf.running.condition import (
    Condition,
    Space,
    check_alike,
    check_condition,
    check_interface,
    this_condition,
)
from dlperf.running.health import HealthIssue, Level

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, and no environment anywhere."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("DLPERF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CC", raising=False)
    return folder


def put_program(path: Path, text: str = "exit 0") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def said() -> dict[str, str]:
    """The warnings of this machine, but for those that depend on what machine it is."""
    machine = {"CPU ids", "locked memory", "shared memory", "home"}
    issues = check_condition(this_condition())
    return {
        issue.check: issue.text
        for issue in issues
        if issue.level is Level.WARNING and issue.check not in machine
    }


def of(**changes: Any) -> Condition:
    """A machine without trouble, changed."""
    space = Space(path="/home/me", total_bytes=9 * GIB, free_bytes=5 * GIB, is_writable=True)
    content: dict[str, Any] = {
        "cpus": (0, 1, 2, 3),
        "memlock_bytes": None,
        "rdma_devices": (),
        "shared_memory": space,
        "home": space,
        "interfaces": {"lo": "127.0.0.1", "eth0": "10.0.0.5"},
        "host_address": "10.0.0.5",
        "gpus": (),
        "asked_compiler": None,
        "compiler": None,
        "headers": (),
    }
    return Condition(**content | changes)


def warning(condition: Condition) -> str:
    (issue,) = [issue for issue in check_condition(condition) if issue.level is not Level.OK]
    assert Level.WARNING is issue.level
    return f"{issue.check}: {issue.text}"


def test_a_machine_without_trouble_has_no_warning() -> None:
    assert {Level.OK} == {issue.level for issue in check_condition(of())}


def test_this_machine_says_all_that_is_asked() -> None:
    condition = this_condition()
    assert sorted(os.sched_getaffinity(0)) == list(condition.cpus)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert (None if soft == resource.RLIM_INFINITY else soft) == condition.memlock_bytes
    assert os.environ["HOME"] == (condition.home and condition.home.path)
    assert "127.0.0.1" == condition.interfaces["lo"]
    assert () == condition.gpus


@pytest.mark.parametrize(
    ("cpus", "text"),
    [
        ((0, 1, 2, 6, 7), "CPU ids: 0-2,6-7 without 3-5, to which a program that only counts CPUs binds: "),
        ((0, 2), "CPU ids: 0,2 without 1, to which"),
    ],
)
def test_cpu_ids_with_holes_are_told(cpus: tuple[int, ...], text: str) -> None:
    assert warning(of(cpus=cpus)).startswith(text)


def test_a_range_of_cpus_need_not_begin_at_0() -> None:
    (issue, *_) = check_condition(of(cpus=(8, 9, 10)))
    assert ("CPU ids", Level.OK, "8-10, without holes") == (issue.check, issue.level, issue.text)


def test_little_locked_memory_matters_where_there_is_rdma() -> None:
    text = warning(of(memlock_bytes=8 << 20, rdma_devices=("mlx5_0", "mlx5_1")))
    assert text.startswith("locked memory: up to 8 MiB, and RDMA (mlx5_0, mlx5_1) locks what it sends: set ")
    for fine in ({"memlock_bytes": 8 << 20}, {"memlock_bytes": 2 * GIB, "rdma_devices": ("mlx5_0",)}):
        assert {Level.OK} == {issue.level for issue in check_condition(of(**fine))}


def space(total: float, free: float, *, writable: bool = True) -> Space:
    return Space(path="/x", total_bytes=int(total * GIB), free_bytes=int(free * GIB), is_writable=writable)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shared_memory": None}, "shared memory: no /dev/shm, which NCCL and readers of images need: "),
        ({"shared_memory": space(1 / 16, 1 / 16)}, "shared memory: 64 MiB of 64 MiB free in /x, too little "),
        ({"shared_memory": space(64, 0.5)}, "shared memory: 512 MiB of 64.0 GiB free in /x: remove what "),
        ({"home": None}, "home: there is no home folder, where engines keep caches: set HOME "),
        ({"home": space(9, 0.25)}, "home: 256 MiB free in /x, where engines keep caches: free some, or set "),
        ({"home": space(9, 5, writable=False)}, "home: /x, where engines keep caches, is not writable: set "),
    ],
)
def test_little_room_is_told(changes: dict[str, Any], text: str) -> None:
    assert warning(of(**changes)).startswith(text)


def test_gpus_without_trouble_have_no_warning(tools: Path) -> None:
    write_nvidia_smi(tools, *[FakeGpu(name="NVIDIA H200")] * 2)
    put_program(tools / "gcc")
    assert {} == said()
    assert (2, True, 700.0) == (
        len(this_condition().gpus),
        this_condition().gpus[1].persistence,
        this_condition().gpus[1].power_limit_watts,
    )


@pytest.mark.parametrize(
    ("state", "check", "text"),
    [
        (
            {"memory.used": "31999"},
            "GPU memory",
            "31999 MiB of GPU 1 are held, and nvidia-smi lists no process (a container's, a display's, ",
        ),
        (
            {"remapped_rows.pending": "Yes"},
            "GPU errors",
            "GPU 1 uses defective rows of memory until it is reset: `nvidia-smi -i 1 --gpu-reset` as root",
        ),
        ({"remapped_rows.pending": "1"}, "GPU errors", "GPU 1 uses defective rows of memory"),
        ({"retired_pages.pending": "Yes"}, "GPU errors", "GPU 1 uses defective pages of memory"),
        ({"remapped_rows.failure": "Yes"}, "GPU errors", "GPU 1 has no spare rows left for defective ones: "),
        (
            {"ecc.errors.uncorrected.volatile.total": "3"},
            "GPU errors",
            "GPU 1 has 3 errors in memory that ECC could not correct: `nvidia-smi -i 1 --gpu-reset` as root",
        ),
    ],
)
def test_trouble_of_a_gpu_is_told(state: dict[str, str], check: str, text: str, tools: Path) -> None:
    bad = FakeGpu(name="NVIDIA H200", state=tuple(state.items()))
    write_nvidia_smi(tools, FakeGpu(name="NVIDIA H200"), bad)
    put_program(tools / "gcc")
    ((told, words),) = said().items()
    assert check == told
    assert words.startswith(text)


def test_memory_that_a_listed_process_holds_is_its_own(tools: Path) -> None:
    gpu = FakeGpu(name="NVIDIA H200", uuid="GPU-0", state=(("memory.used", "31999"),))
    write_nvidia_smi(tools, gpu, apps=(("GPU-0", 7, "python"),))
    put_program(tools / "gcc")
    assert {} == said()


def test_a_gpu_in_mig_mode_is_told(tools: Path) -> None:
    divided = FakeGpu(name="NVIDIA A100", uuid="GPU-0", instances=(("1g.5gb", "MIG-0", 4864),))
    write_nvidia_smi(tools, divided, FakeGpu(name="NVIDIA A100", uuid="GPU-1", divided=True))
    put_program(tools / "gcc")
    text = "GPUs 0-1 in MIG mode, of which a process sees one instance, and no other GPU: "
    assert {"MIG": f"{text}`nvidia-smi -i 0,1 -mig 0` as root ends it"} == said()


def test_gpus_that_are_not_shown_to_us_do_not_count(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = FakeGpu(name="NVIDIA H200", state=(("remapped_rows.pending", "Yes"),))
    write_nvidia_smi(tools, FakeGpu(name="NVIDIA H200"), bad)
    put_program(tools / "gcc")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert {} == said()


def test_what_a_driver_does_not_know_is_no_trouble(tools: Path) -> None:
    """Of a group of fields nvidia-smi answers all or none."""
    state = (("memory.used", "9000"), ("ecc.errors.uncorrected.volatile.total", "[N/A]"))
    unknown = ("remapped_rows.pending", "retired_pages.pending", "mig.mode.current")
    write_nvidia_smi(tools, FakeGpu(name="Tesla V100", state=state), unknown=unknown)
    put_program(tools / "gcc")
    assert ["GPU memory"] == list(said())


@pytest.mark.parametrize("answer", ["exit 9", "echo 0, GPU-0, [Unknown Error]", "echo 0", "echo x, y, z"])
def test_a_driver_in_trouble_breaks_nothing(tools: Path, answer: str) -> None:
    put_program(tools / "nvidia-smi", answer)
    put_program(tools / "gcc")
    assert {} == said()


def node(tools: Path, *gpus: FakeGpu) -> Condition:
    write_nvidia_smi(tools, *gpus)
    return this_condition()


def unlike(conditions: dict[str, Condition]) -> list[tuple[str, str, str]]:
    return [(machine, issue.check, issue.text) for machine, issue in check_alike(conditions)]


def test_power_limits_and_persistence_that_differ_between_nodes_are_told(tools: Path) -> None:
    good = FakeGpu(name="NVIDIA H200")
    capped = FakeGpu(name="NVIDIA H200", state=(("power.limit", "500.00"),))
    off = FakeGpu(name="NVIDIA H200", state=(("persistence_mode", "Disabled"),))
    conditions = {"a": node(tools, good, good), "b": node(tools, capped, good, capped), "c": node(tools, off)}
    assert unlike(conditions) == [
        (
            "b",
            "power limit",
            "500 W on GPUs 0,2, 700 W elsewhere: `nvidia-smi -i 0,2 -pl 700` as root",
        ),
        ("c", "persistence mode", "off on GPU 0, on elsewhere: `nvidia-smi -i 0 -pm 1` as root"),
    ]


def test_of_two_gpus_the_one_with_the_lower_limit_is_told(tools: Path) -> None:
    good, capped = (FakeGpu(name="A", state=(("power.limit", f"{watts}.00"),)) for watts in (700, 500))
    assert ["b"] == [one for one, *_ in unlike({"a": node(tools, good), "b": node(tools, capped)})]
    assert ["b"] == [one for one, *_ in unlike({"b": node(tools, capped), "a": node(tools, good)})]


def test_gpus_of_another_name_and_settings_that_are_not_known_are_not_compared(tools: Path) -> None:
    other = FakeGpu(name="NVIDIA L4", state=(("power.limit", "72.00"),))
    silent = FakeGpu(name="NVIDIA H200", state=(("power.limit", "[N/A]"), ("persistence_mode", "[N/A]")))
    assert [] == unlike({"a": node(tools, FakeGpu(name="NVIDIA H200"), other), "b": node(tools, silent)})
    assert [] == unlike({"a": of(), "b": of()})


DOCKER = {"lo": "127.0.0.1", "docker0": "172.17.0.1", "eth0": "10.0.0.5"}


@pytest.mark.parametrize(
    ("changes", "device", "text"),
    [
        ({}, "cuda", None),
        ({"interfaces": DOCKER}, "cuda", None),  # NCCL leaves it out
        ({"interfaces": {**DOCKER, "virbr0": "192.168.122.1"}}, "cpu", None),
        (
            {"interfaces": {**DOCKER, "virbr0": "192.168.122.1"}},
            "cuda",
            "NCCL may choose virbr0, behind which there is no other node: ",
        ),
        (
            {"interfaces": DOCKER, "host_address": "172.17.0.1"},
            "cpu",
            "gloo takes 172.17.0.1, its own name's address, which is on docker0 and leads to no other node: ",
        ),
        (
            {"host_address": "127.0.1.1"},
            "cpu",
            "gloo takes 127.0.1.1, its own name's address, which is on lo and leads to no other node: ",
        ),
        (
            {"host_address": "10.9.9.9"},
            "cuda",
            "gloo takes 10.9.9.9, its own name's address, which no interface has: ",
        ),
        ({"host_address": None}, "cpu", "its own name, which gloo looks up, has no address: "),
    ],
)
def test_an_interface_that_leads_nowhere_is_told_with_the_one_to_name(
    changes: dict[str, Any], device: str, text: str | None
) -> None:
    issue = check_interface(of(**changes), reached_at="10.0.0.5", device=device)
    if text is None:
        assert HealthIssue(check="interface", level=Level.OK, text="engines choose eth0") == issue
    else:
        assert (Level.WARNING, f"{text}put `interface: eth0` into the cluster file") == (
            issue.level,
            issue.text,
        )


@pytest.mark.parametrize(
    ("chosen", "programs", "text"),
    [
        (None, ["gcc"], None),
        (None, ["clang"], None),
        (None, ["cc"], "no gcc or clang on PATH, which torch.compile needs: install one"),
        ("mycc", ["mycc"], None),
        ("mycc", ["gcc"], "CC=mycc is no program, which torch.compile needs"),
    ],
)
def test_a_gpu_needs_a_compiler_for_torch_compile(
    chosen: str | None, programs: list[str], text: str | None, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in programs:
        put_program(tools / name)
    if chosen is not None:
        monkeypatch.setenv("CC", chosen)
    assert {} == said()  # without a GPU nothing is compiled
    write_nvidia_smi(tools, FakeGpu(name="NVIDIA H200"))
    words = said().get("C compiler")
    assert (words is None) if text is None else words is not None and words.startswith(text)


def test_a_gpu_needs_the_headers_of_pytorchs_python(tools: Path, tmp_path: Path) -> None:
    """The interpreter is one that says where its Python.h belongs: this machine may have none."""
    header, python = tmp_path / "Python.h", tmp_path / "cache/environments/pytorch-2.13.0-0/bin/python"
    write_nvidia_smi(tools, FakeGpu(name="NVIDIA H200"))
    put_program(tools / "gcc")
    put_program(python, f"echo 3.11; echo {header}")
    text = said()["Python headers"]
    assert text.startswith(f"no {header}, which torch.compile needs: install them")
    assert "apt install python3.11-dev" in text
    header.touch()
    assert {} == said()
    python.chmod(0o644)
    assert said()["Python headers"].startswith(f"{python} does not start: remove its environment")


def test_doctor_shows_what_it_finds(tools: Path, tmp_path: Path) -> None:
    """With a home folder that is not there, and with GPUs of which one is not as the others."""
    capped = FakeGpu(name="NVIDIA H200", state=(("power.limit", "500.00"),))
    write_nvidia_smi(tools, FakeGpu(name="NVIDIA H200"), FakeGpu(name="NVIDIA H200"), capped)
    done = subprocess.run(
        [sys.executable, "-m", "dlperf", "doctor", "--results", str(tmp_path)],
        env=os.environ | {"HOME": "/no/home", "DLPERF_HOST_LOCK": str(tmp_path / "lock")},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert "warning  power limit: 500 W on GPU 2, 700 W elsewhere: `nvidia-smi -i 2 -pl 700` as root" in lines
    assert any(
        line.startswith("warning  home: there is no home folder, where engines keep") for line in lines
    )
    assert any(line.startswith("warning  C compiler: no gcc or clang on PATH") for line in lines)
