"""Which build runs on which GPU: the rule, what a plan says, and what the shipped adapters declare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.adapters.base import CudaBuild, EnvironmentSpec
from dlperf.adapters.registry import load_adapters
from dlperf.plan.cluster import load_cluster
from dlperf.plan.compatibility import has_code_for, refusal, why_not
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Gpu, Machine, version_key
from dlperf.plan.plan import Plan, PlanStatus, make_plan

if TYPE_CHECKING:
    from pathlib import Path

T4 = Gpu(name="Tesla T4", capability="7.5", driver="580.82.07")
V100 = Gpu(name="Tesla V100-SXM2-16GB", capability="7.0", driver="535.183.01")
A100 = Gpu(name="NVIDIA A100-SXM4-40GB", capability="8.0", driver="550.54.15")
L4 = Gpu(name="NVIDIA L4", capability="8.9", driver="580.82.07")
H200 = Gpu(name="NVIDIA H200", capability="9.0", driver="580.82.07")

capabilities = st.sampled_from(
    ["5.0", "6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
)


def build(*own: str, ptx: str | None = None, driver: str | None = None) -> CudaBuild:
    return CudaBuild(toolkit="11.7", capabilities=own, ptx=ptx, driver=driver)


@given(own=st.lists(capabilities, min_size=1), ptx=st.none() | capabilities, gpu=capabilities)
def test_code_runs_on_later_minors_of_its_major_and_ptx_on_all_that_follow(
    own: list[str], ptx: str | None, gpu: str
) -> None:
    major, minor = version_key(gpu)
    binary = any(version_key(each)[0] == major and version_key(each)[1] <= minor for each in own)
    compiled = ptx is not None and version_key(ptx) <= (major, minor)
    assert (binary or compiled) == has_code_for(build(*own, ptx=ptx), gpu)


@given(own=st.lists(capabilities, min_size=1), more=capabilities, gpu=capabilities)
def test_more_code_never_excludes_a_gpu(own: list[str], more: str, gpu: str) -> None:
    assert has_code_for(build(*own), gpu) <= has_code_for(build(*own, more), gpu)
    assert has_code_for(build(*own), gpu) <= has_code_for(build(*own, ptx=more), gpu)


def test_numbers_are_compared_and_not_letters() -> None:
    assert not has_code_for(build("9.0", ptx="10.0"), "9.1") < has_code_for(build("9.0"), "9.1")
    assert has_code_for(build("5.0", ptx="9.0"), "12.0")
    assert why_not(build("7.0", driver="450.80.02"), V100.model_copy(update={"driver": "450.102.04"})) is None


def test_what_is_not_known_is_not_refused() -> None:
    assert why_not(build("7.0", driver="999"), Gpu(name="NVIDIA GPU")) is None
    spec = EnvironmentSpec(
        framework="mxnet", version="1", pythons=(), requirements=(), import_check="", cuda=None
    )
    assert refusal(spec, [H200]) is None


def test_an_old_driver_is_told_with_the_one_that_is_needed() -> None:
    assert why_not(build("7.0", driver="580.65.06"), V100) == (
        "needs driver 580.65.06 or newer, as its build is for CUDA 11.7; Tesla V100-SXM2-16GB has 535.183.01"
    )


TWO_TOPOLOGIES = """\
experiment: quickstart
frameworks: mxnet==1.9.1
topology: [1n1g, 1n2g]
batch_size_per_device: 8
"""


def planned(folder: Path, *gpus: Gpu) -> Plan:
    """The shipped sweep r100_emore on a cluster of two nodes with such GPUs."""
    adapters = load_adapters()
    nodes = ", ".join(
        f"{{name: n{number}, gpu: {{name: {gpu.name}, capability: {gpu.capability}, driver: {gpu.driver}}}}}"
        for number, gpu in enumerate(gpus)
    )
    (folder / "c.yaml").write_text(f"devices: 8\ncores: 64\nnodes: [{nodes}]\n")
    cluster = load_cluster("c.yaml", folder=folder)
    sweep = load_sweep("r100_emore", adapters=adapters, folder=folder)
    return make_plan(sweep, adapters=adapters, machine=cluster.weakest, cluster=cluster)


def reasons(plan: Plan, framework: str) -> set[str | None]:
    """Of the cases of one node and of two."""
    return {
        item.reason
        for item in plan.cases
        if item.case.framework == framework and item.case.topology.nodes <= 2 and item.status in DECIDED
    }


DECIDED = (PlanStatus.RUNNABLE, PlanStatus.UNAVAILABLE)


@pytest.mark.parametrize("gpu", [T4, V100, A100, L4], ids=lambda gpu: gpu.name)
def test_the_shipped_sweep_runs_from_turing_to_ada(gpu: Gpu, tmp_path: Path) -> None:
    plan = planned(tmp_path, gpu, gpu)
    for framework in ("oneflow", "mxnet", "pytorch"):
        assert {None} == reasons(plan, framework)


def test_the_shipped_sweep_on_hopper_is_left_to_pytorch(tmp_path: Path) -> None:
    plan = planned(tmp_path, H200, H200)
    assert {None} == reasons(plan, "pytorch")
    (oneflow,) = reasons(plan, "oneflow")
    assert oneflow == (
        "oneflow 0.9.0 has no code for compute capability 9.0 (NVIDIA H200): "
        "its build for CUDA 11.7 has 6.0 to 8.6; use another framework or GPU"
    )
    (mxnet,) = reasons(plan, "mxnet")
    assert mxnet == (
        "mxnet 1.9.1 has no code for compute capability 9.0 (NVIDIA H200): "
        "its build for CUDA 11.2 has 5.0 to 8.6; use another framework or GPU"
    )


def test_the_build_of_pytorch_follows_the_weakest_gpu_of_the_cluster(tmp_path: Path) -> None:
    adapter = load_adapters()["pytorch"]
    toolkits = {}
    for gpus in ((V100, V100), (V100, H200), (H200, H200)):
        plan = planned(tmp_path, *gpus)
        assert {None} == reasons(plan, "pytorch")
        build = adapter.environment("2.13.0", "cuda", gpu=plan.machine.gpu).cuda
        assert build is not None
        toolkits[gpus] = build.toolkit
    assert {(V100, V100): "12.6", (V100, H200): "12.6", (H200, H200): "13.0"} == toolkits


B200 = Gpu(name="NVIDIA B200", capability="10.0", driver="570.86.15")


def test_a_newer_driver_is_a_remedy() -> None:
    adapter = load_adapters()["pytorch"]
    spec = adapter.environment("2.13.0", "cuda", gpu=B200)
    assert refusal(spec, [B200], adapter=adapter) == (
        "pytorch 2.13.0 needs driver 580.65.06 or newer, as its build is for CUDA 13.0; NVIDIA B200 has "
        "570.86.15; update the driver"
    )


def test_unlike_gpus_that_share_no_build_are_planned_apart(tmp_path: Path) -> None:
    new = B200.model_copy(update={"driver": "580.65.06"})
    plan = planned(tmp_path, V100, new)
    found = {item.case.topology.nodes: item.reason for item in plan.cases if item.case.framework == "pytorch"}
    assert found[1] is None
    assert found[2] == (
        "n1: pytorch 2.13.0 has no code for compute capability 10.0 (NVIDIA B200): its build for CUDA 12.6 "
        "has 5.0 to 9.0; plan for this GPU alone, which takes the build for CUDA 13.0"
    )


def test_a_node_whose_gpu_cannot_run_a_build_does_not_count(tmp_path: Path) -> None:
    plan = planned(tmp_path, A100, H200)
    found = {
        item.case.topology.nodes: item.reason
        for item in plan.cases
        if item.case.framework == "oneflow" and item.case.topology.nodes <= 2 and item.status in DECIDED
    }
    assert found[1] is None
    assert str(found[2]).startswith("n1: oneflow 0.9.0 has no code for compute capability 9.0")


def test_a_version_that_can_run_there_is_named() -> None:
    adapter = load_adapters()["oneflow"]
    older = adapter.environment("0.8.0", "cuda", gpu=A100)
    assert refusal(older, [A100], adapter=adapter) == (
        "oneflow 0.8.0 has no code for compute capability 8.0 (NVIDIA A100-SXM4-40GB): "
        "its build for CUDA 10.2 has 6.0 to 7.5; use oneflow 0.9.0"
    )


def test_the_users_own_python_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "experiment: quickstart\ntopology: 1n1g\nbatch_size_per_device: 8\nframeworks:\n"
        "  - {name: oneflow, version: 0.9.0, python: /own/python}\n  - oneflow==0.8.0\n"
    )
    adapters = load_adapters()
    sweep = load_sweep("s.yaml", adapters=adapters, folder=tmp_path)
    plan = make_plan(sweep, adapters=adapters, machine=Machine(cores=8, gpus=(H200,)))
    assert {"0.9.0": PlanStatus.RUNNABLE, "0.8.0": PlanStatus.UNAVAILABLE} == {
        item.case.version: item.status for item in plan.cases
    }


def test_only_the_gpus_that_a_case_uses_count(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TWO_TOPOLOGIES)
    adapters = load_adapters()
    sweep = load_sweep("s.yaml", adapters=adapters, folder=tmp_path)
    plan = make_plan(sweep, adapters=adapters, machine=Machine(cores=8, gpus=(A100, H200)))
    first, second = plan.cases
    assert first.reason is None
    assert "mxnet 1.9.1 has no code for compute capability 9.0 (NVIDIA H200)" in str(second.reason)


def test_an_instance_of_a_gpu_trains_alone(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TWO_TOPOLOGIES)
    adapters = load_adapters()
    sweep = load_sweep("s.yaml", adapters=adapters, folder=tmp_path)
    instance = A100.model_copy(update={"name": "NVIDIA A100 MIG 3g.20gb", "mig": True})
    plan = make_plan(sweep, adapters=adapters, machine=Machine(cores=8, gpus=(instance,)))
    assert [None, (
        "needs 2 GPUs that reach each other; this machine has an instance, NVIDIA A100 MIG 3g.20gb, "
        "which reaches none"
    )] == [item.reason for item in plan.cases]  # fmt: skip
