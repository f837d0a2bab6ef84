"""The MXNet adapter: environments, refusals, commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from dlperf.adapters.base import Launch, Place
from dlperf.adapters.mxnet import ADAPTER
from dlperf.plan.case import Case, Loss, Measure, Topology, Workload


def _case(**changes: object) -> Case:
    content = {
        "framework": "mxnet",
        "version": "1.9.1",
        "workload": Workload(
            experiment="y1_emore",
            network="mobilefacenet",
            head="GDC",
            embedding_size=128,
            dataset="emore",
            loss=Loss(kind="arcface", m2=0.5),
        ),
        "parallelism": "data",
        "topology": Topology(nodes=1, devices_per_node=1),
        "device": "cpu",
        "batch_size_per_device": 4,
        "num_classes": 100,
        "threads_per_device": 2,
        "measure": Measure(),
    }
    return Case.model_validate({**content, **changes})


def _launch(case: Case) -> Launch:
    place = Place(
        rank=0, local_rank=0, node_rank=0, cpus=(0, 1), master_address="127.0.0.1", master_port=1234
    )
    return Launch(
        case=case,
        case_file=Path("/run/case.json"),
        code=Path("/code"),
        python=Path("/environment/bin/python"),
        places=(place,),
    )


def test_every_version_has_an_environment_of_exact_pins() -> None:
    assert ("1.9.1", "1.9.0", "1.8.0.post0") == ADAPTER.versions
    for version in ADAPTER.versions:
        spec = ADAPTER.environment(version, "cpu")
        assert f"mxnet=={version}" == spec.requirements[0]
        assert "numpy==1.23.5" in spec.requirements
        assert all("==" in requirement for requirement in spec.requirements)
        assert "3.12" not in spec.pythons


def test_cuda_takes_the_cuda_wheel_and_the_libraries_that_it_links() -> None:
    spec = ADAPTER.environment("1.9.1", "cuda")
    assert "mxnet-cu112==1.9.1" == spec.requirements[0]
    names = {requirement.partition("==")[0] for requirement in spec.requirements}
    assert {"nvidia-cudnn-cu11", "nvidia-nccl-cu11", "nvidia-cublas-cu11", "nvidia-cuda-nvrtc-cu11"} < names


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_import_check_is_python_that_tells_a_missing_framework(device: str) -> None:
    check = ADAPTER.environment("1.9.1", device).import_check
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 != done.returncode
    assert "No module named 'mxnet'" in done.stderr


@pytest.mark.parametrize(
    ("version", "device", "message"),
    [
        ("2.0", "cpu", "mxnet 2.0 is unknown; known versions: 1.9.1, 1.9.0, 1.8.0.post0"),
        (
            "1.6.0",
            "cpu",
            (
                "mxnet 1.6.0 needs Python 3.7 and the training programs need 3.8; "
                "known versions: 1.9.1, 1.9.0, 1.8.0.post0"
            ),
        ),
        ("1.9.0", "cuda", "mxnet 1.9.0 is not built for CUDA here; known versions: 1.9.1"),
    ],
)
def test_a_version_that_cannot_run_is_refused_with_the_known_ones(
    version: str, device: str, message: str
) -> None:
    with pytest.raises(ValueError, match="known versions") as caught:
        ADAPTER.environment(version, device)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"device": "cuda"}, None),
        ({"precision": "fp16"}, "MXNet trains fp32 alone on CPU: FP16 gemm on cpu not implemented!"),
        (
            {"precision": "bf16"},
            "MXNet trains fp32 alone on CPU: could not create a primitive descriptor iterator",
        ),
        ({"precision": "fp16", "device": "cuda"}, "fp16 training in MXNet is not built yet"),
        ({"parallelism": "model"}, "parallelism model in MXNet is not built yet"),
        (
            {"topology": Topology(nodes=1, devices_per_node=2)},
            "more than one device in MXNet is not built yet",
        ),
    ],
)
def test_what_cannot_run_is_known_before(changes: dict[str, object], reason: str | None) -> None:
    assert reason == ADAPTER.unsupported(_case(**changes))


def test_a_rank_is_the_training_program_with_its_threads() -> None:
    (command,) = ADAPTER.rank_commands(_launch(_case()))
    expected = ("/environment/bin/python", "-m", "frameworks.mxnet.train", "/run/case.json")
    assert expected == command.argv
    assert "2" == command.env["OMP_NUM_THREADS"]
    assert "1" == command.env["MXNET_CPU_WORKER_NTHREADS"]
    assert "LD_LIBRARY_PATH" not in command.env


def test_a_cuda_rank_finds_the_libraries_of_its_environment() -> None:
    (command,) = ADAPTER.rank_commands(_launch(_case(device="cuda")))
    folders = command.env["LD_LIBRARY_PATH"].split(":")
    assert "/environment/lib/python3.10/site-packages/nvidia/cudnn/lib" in folders


def test_options_are_closed() -> None:
    assert "broadcast" == ADAPTER.options.model_validate({"prelu": "broadcast"}).prelu
    with pytest.raises(ValidationError):
        ADAPTER.options.model_validate({"prelu": "operator"})
    with pytest.raises(ValidationError):
        ADAPTER.options.model_validate({"prelue": "broadcast"})
