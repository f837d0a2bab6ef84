"""The OneFlow adapter: environments, refusals, commands."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from cases import case_of, launch_of
from pydantic import ValidationError

from dlperf.adapters.oneflow import ADAPTER
from dlperf.environments.environment import environment_key
from dlperf.plan.case import Case, Topology
from frameworks.common.case import COLLECTIVE_SECONDS

TWO = Topology(nodes=1, devices_per_node=2)
SAMPLED_ON_CUDA = {"parallelism": "partial_fc", "sample_ratio": 0.1, "device": "cuda"}


def _case(**changes: Any) -> Case:
    return case_of(ADAPTER, **changes)


def test_every_version_has_an_environment_of_exact_pins() -> None:
    assert ("0.9.0", "0.8.0") == ADAPTER.versions
    for version in ADAPTER.versions:
        spec = ADAPTER.environment(version, "cpu")
        assert f"oneflow=={version}" == spec.requirements[0]
        assert "protobuf==3.20.3" in spec.requirements
        assert all("==" in requirement for requirement in spec.requirements)
        on_cuda = ADAPTER.environment(version, "cuda")
        assert environment_key(spec) == environment_key(on_cuda)  # one wheel
        assert None is spec.gpu_check
        assert on_cuda.gpu_check is not None
        assert 'device="cuda"' in on_cuda.gpu_check
        assert None is spec.cuda


def test_only_the_newer_wheel_needs_nvidias_libraries() -> None:
    libraries = {"nvidia-cudnn-cu11==8.5.0.96", "nvidia-cublas-cu11==11.10.3.66"}
    assert libraries < set(ADAPTER.environment("0.9.0", "cpu").requirements)
    older = ADAPTER.environment("0.8.0", "cpu").requirements
    assert not [requirement for requirement in older if requirement.startswith("nvidia")]
    assert "numpy==1.23.5" in older


def test_the_import_check_tells_a_missing_framework() -> None:
    command = [sys.executable, "-c", ADAPTER.environment("0.9.0", "cpu").import_check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 != done.returncode
    assert "No module named 'oneflow'" in done.stderr


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.0", "oneflow 1.0 is unknown; known versions: 0.9.0, 0.8.0"),
        ("0.7.0", "oneflow 0.7.0 on PyPI is a stub without the library; known versions: 0.9.0, 0.8.0"),
        ("0.6.0", "oneflow 0.6.0 on PyPI is a stub without the library; known versions: 0.9.0, 0.8.0"),
    ],
)
def test_a_version_that_cannot_run_is_refused_with_the_known_ones(version: str, message: str) -> None:
    with pytest.raises(ValueError, match="known versions") as caught:
        ADAPTER.environment(version, "cpu")
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"device": "cuda"}, None),
        (
            {"precision": "fp16"},
            (
                "OneFlow trains fp32 alone on CPU: its CPU operators have no fp16 kernels, "
                "and enable_amp silently trains in fp32"
            ),
        ),
        (
            {"precision": "bf16"},
            (
                "OneFlow trains fp32 alone on CPU: its CPU operators have no bf16 kernels, "
                "and enable_amp silently trains in fp32"
            ),
        ),
        ({"precision": "fp16", "device": "cuda"}, None),
        ({"precision": "bf16", "device": "cuda"}, None),
        (
            {"precision": "bf16", "device": "cuda", "version": "0.8.0"},
            "OneFlow 0.8.0 has mixed precision in fp16 alone; bf16 came with 0.9.0",
        ),
        ({"parallelism": "model", "topology": TWO}, None),
        ({"parallelism": "partial_fc", "sample_ratio": 0.1, "topology": TWO, "num_classes": 51}, None),
        (
            {**SAMPLED_ON_CUDA, "topology": TWO, "num_classes": 51},
            (
                "OneFlow's sampler of Partial FC maps labels wrongly where devices hold different numbers of "
                "classes; take a num_classes that 2 divides, such as 52"
            ),
        ),
        ({**SAMPLED_ON_CUDA, "topology": TWO}, None),
        ({**SAMPLED_ON_CUDA, "num_classes": 51}, None),
    ],
)
def test_what_cannot_run_is_known_before(changes: dict[str, object], reason: str | None) -> None:
    assert reason == ADAPTER.unsupported(_case(**changes))


def test_a_rank_is_the_training_program_with_its_threads() -> None:
    (command,) = ADAPTER.rank_commands(launch_of(_case()))
    expected = ("/environment/bin/python", "-m", "frameworks.oneflow.train", "/run/case.json")
    assert expected == command.argv
    own = {
        "OMP_NUM_THREADS": "2",
        "DLPERF_ONEFLOW_OPENBLAS_CORE": "best",
        "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION": "0",
        "GLOG_logtostderr": "1",
        "GLOG_minloglevel": "1",
    }
    assert own == {name: command.env[name] for name in own}


def test_a_rank_alone_is_told_of_no_others() -> None:
    (command,) = ADAPTER.rank_commands(launch_of(_case()))
    assert not {"MASTER_ADDR", "WORLD_SIZE", "RANK"} & set(command.env)


def test_ranks_find_each_other_by_the_variables_that_oneflow_reads() -> None:
    case = _case(topology=Topology(nodes=2, devices_per_node=2), num_classes=100)
    commands = ADAPTER.rank_commands(launch_of(case, interface="eth1"))
    for rank, command in enumerate(commands):
        expected = {
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "1234",
            "WORLD_SIZE": "4",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % 2),
            "NCCL_SOCKET_IFNAME": "eth1",
            "ONEFLOW_TIMEOUT_SECONDS": str(COLLECTIVE_SECONDS),
        }
        assert expected == {name: command.env[name] for name in expected}
    assert 4 == len(commands)


def test_options_reach_the_engine() -> None:
    case = _case(options={"openblas_core": "detected", "tf32": True})
    (command,) = ADAPTER.rank_commands(launch_of(case))
    assert "detected" == command.env["DLPERF_ONEFLOW_OPENBLAS_CORE"]
    assert "1" == command.env["ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION"]


def test_options_are_closed() -> None:
    with pytest.raises(ValidationError, match="openblas"):
        ADAPTER.options.model_validate({"openblas_core": "Barcelona"})
    with pytest.raises(ValidationError, match="tf23"):
        ADAPTER.options.model_validate({"tf23": True})
