from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dlperf.adapters.base import Launch, Place
from dlperf.adapters.pytorch import ADAPTER, PyTorchOptions
from dlperf.adapters.registry import load_adapters
from dlperf.plan.case import Case, Loss, Measure, Topology, Workload


def case(**changes: object) -> Case:
    workload = Workload(
        experiment="y1_emore",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset="emore",
        loss=Loss(kind="arcface", m2=0.5),
    )
    content = {
        "framework": "pytorch",
        "version": "2.13.0",
        "workload": workload,
        "parallelism": "data",
        "topology": Topology.from_text("1n1g"),
        "device": "cpu",
        "batch_size_per_device": 4,
        "num_classes": 100,
        "threads_per_device": 3,
        "measure": Measure(),
    }
    return Case(**{**content, **changes})


def test_it_is_registered_under_its_name() -> None:
    assert ADAPTER is load_adapters()["pytorch"]


def test_one_device_in_fp32_is_supported() -> None:
    assert ADAPTER.unsupported(case()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topology": Topology.from_text("1n2g")}, "more than one device is not built yet for pytorch"),
        ({"precision": "fp16"}, "precision fp16 is not built yet for pytorch"),
        ({"parallelism": "model"}, "parallelism model is not built yet for pytorch"),
        (
            {"parallelism": "partial_fc", "sample_ratio": 0.1},
            "parallelism partial_fc is not built yet for pytorch",
        ),
        (
            {"batch_size_per_device": 1},
            "PyTorch's BatchNorm refuses to train on one value a channel: the embedding of a batch of 1",
        ),
    ],
)
def test_what_it_cannot_run_has_a_reason(changes: dict, reason: str) -> None:
    assert reason == ADAPTER.unsupported(case(**changes))


def test_the_environment_of_the_cpu_takes_the_small_wheel() -> None:
    spec = ADAPTER.environment("2.13.0", "cpu")

    assert ("torch==2.13.0", "numpy==2.4.6") == spec.requirements
    assert ("cpu", ("3.11", "3.12", "3.13")) == (spec.torch_backend, spec.pythons)
    assert "auto" == ADAPTER.environment("2.13.0", "cuda").torch_backend


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no version '1\.0' here; known: 2\.13\.0"):
        ADAPTER.environment("1.0", "cpu")


def test_a_rank_is_one_process_of_the_training_program() -> None:
    place = Place(rank=0, local_rank=0, node_rank=0, cpus=(), master_address="127.0.0.1", master_port=29500)
    launch = Launch(
        case=case(),
        case_file=Path("/run/case.json"),
        code=Path("/code"),
        python=Path("/env/bin/python"),
        places=(place,),
    )

    (command,) = ADAPTER.rank_commands(launch)

    assert ("/env/bin/python", "-m", "frameworks.pytorch.train", "/run/case.json") == command.argv
    expected = {
        "PYTHONPATH": "/code",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "DLPERF_RANK": "0",
        "DLPERF_LOCAL_RANK": "0",
        "DLPERF_WORLD_SIZE": "1",
        "DLPERF_MASTER_ADDRESS": "127.0.0.1",
        "DLPERF_MASTER_PORT": "29500",
    }
    assert expected == command.env


def test_options_left_out_follow_the_device_and_are_not_written_into_the_case() -> None:
    assert {"tf32": False} == PyTorchOptions().model_dump(exclude_none=True)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="chanels_last"):
        PyTorchOptions.model_validate({"chanels_last": True})
