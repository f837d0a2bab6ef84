from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dlperf.adapters.base import Launch, RankPlacement
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


def test_the_environment_of_the_cpu_takes_the_small_wheel() -> None:
    spec = ADAPTER.environment("2.13.0", "cpu")

    assert ("torch==2.13.0", "numpy==2.4.6") == spec.requirements
    assert ("cpu", ("3.11", "3.12", "3.13")) == (spec.torch_backend, spec.pythons)
    assert "auto" == ADAPTER.environment("2.13.0", "cuda").torch_backend


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no version '1\.0' here; known: 2\.13\.0"):
        ADAPTER.environment("1.0", "cpu")


def launch_of(topology: str, *, device: str = "cpu", interface: str | None = None) -> Launch:
    asked = case(topology=Topology.from_text(topology), device=device)
    placements = tuple(
        RankPlacement(
            rank=node * asked.topology.devices_per_node + local,
            local_rank=local,
            node_rank=node,
            cpus=(),
            master_address="10.0.0.1",
            master_port=29500,
            interface=interface,
        )
        for node in range(asked.topology.nodes)
        for local in range(asked.topology.devices_per_node)
    )
    return Launch(
        case=asked,
        case_file=Path("/run/case.json"),
        code=Path("/code"),
        python=Path("/env/bin/python"),
        placements=placements,
    )


def test_a_rank_is_one_process_of_the_training_program() -> None:
    (command,) = ADAPTER.rank_commands(launch_of("1n1g"))

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
        "DLPERF_NODE_RANK": "0",
        "DLPERF_WORLD_SIZE": "1",
        "DLPERF_LOCAL_WORLD_SIZE": "1",
        "DLPERF_MASTER_ADDRESS": "10.0.0.1",
        "DLPERF_MASTER_PORT": "29500",
    }
    assert expected == command.env


def test_several_ranks_are_a_process_each() -> None:
    commands = ADAPTER.rank_commands(launch_of("2n2g"))

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
    for command in ADAPTER.rank_commands(launch_of(topology, device=device, interface=interface)):
        assert expected == {name: text for name, text in command.env.items() if "SOCKET_IFNAME" in name}


def test_options_left_out_follow_the_device_and_are_not_written_into_the_case() -> None:
    assert {"tf32": False} == PyTorchOptions().model_dump(exclude_none=True)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="chanels_last"):
        PyTorchOptions.model_validate({"chanels_last": True})
