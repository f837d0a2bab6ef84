"""The case file, the learning rate, the synthetic data and the arrays of an alignment."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.plan.case import Case as PlannedCase
from frameworks.common.align import computed, outputs_name, read_inputs
from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import Rank, Schedule, case_from_dict, rank_from_environment, read_case
from frameworks.common.data import batches, process_batches
from frameworks.common.events import PREFIX, EventLog
from frameworks.common.networks import buffers, layers_of, parameters
from frameworks.common.schedule import learning_rate


def rank_of(**given: object) -> Rank:
    alone = Rank(0, 0, 0, 1, 1, 1, "127.0.0.1", 0, None)
    return alone._replace(**given)


def test_the_program_reads_every_field_that_dlperf_writes(case_content: dict, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(case_content))
    planned, case = PlannedCase.model_validate(case_content, strict=False), read_case(str(path))
    workload = planned.workload

    for name in ("framework", "version", "parallelism", "sample_ratio", "precision", "device", "options"):
        assert getattr(planned, name) == getattr(case, name), name
    for name in ("batch_size_per_device", "num_classes", "threads_per_device", "seed", "global_batch_size"):
        assert getattr(planned, name) == getattr(case, name), name
    for name in ("experiment", "network", "head", "embedding_size", "dropout", "batch_norm"):
        assert getattr(workload, name) == getattr(case, name), name
    assert workload.loss.model_dump() == case.loss._asdict()
    assert workload.optimizer.model_dump() == case.optimizer._asdict()
    assert workload.schedule.model_dump() == case.schedule._asdict()
    assert planned.topology.world_size == case.world_size
    assert (planned.measure.warmup_iterations, planned.measure.measured_iterations) == (
        case.warmup_iterations,
        case.measured_iterations,
    )


def test_a_missing_field_is_named(case_content: dict) -> None:
    del case_content["num_classes"]

    with pytest.raises(KeyError, match="num_classes"):
        case_from_dict(case_content)


def test_a_program_started_by_hand_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DLPERF_")]:
        monkeypatch.delenv(name)

    assert rank_of() == rank_from_environment()


def test_a_started_rank_reads_its_place_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    place = rank_of(
        rank=5,
        local_rank=1,
        node_rank=1,
        world_size=8,
        local_world_size=4,
        devices=2,
        master_address="n0",
        master_port=29500,
        interface="ib0",
    )
    for name, value in place._asdict().items():
        monkeypatch.setenv(f"DLPERF_{name.upper()}", str(value))

    assert place == rank_from_environment()


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, 0.1), (99_999, 0.1), (100_000, 0.01), (159_999, 0.01), (160_000, 0.001), (10**9, 0.001)],
)
def test_the_rate_changes_at_its_iteration(iteration: int, expected: float) -> None:
    schedule = Schedule(0.1, (100_000, 160_000), (0.1, 0.01))

    assert expected == pytest.approx(learning_rate(schedule, iteration))


def test_without_steps_the_rate_is_constant() -> None:
    assert learning_rate(Schedule(0.1, (), ()), 10**6) == 0.1


@given(seed=st.integers(0, 2**31), rank=st.integers(0, 31))
def test_batches_depend_only_on_seed_and_rank(seed: int, rank: int) -> None:
    case = case_from_dict({**CASE, "seed": seed})
    (images, labels), again = batches(case, rank, 1)[0], batches(case, rank, 2)[0]
    other = batches(case, rank + 1, 1)[0]

    assert (np.uint8, (2, 3, 112, 112)) == (images.dtype, images.shape)
    assert (np.int64, (2,)) == (labels.dtype, labels.shape)
    assert 0 <= labels.min()
    assert labels.max() < 7
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert not np.array_equal(images, other[0])


def test_a_process_of_several_devices_gets_the_batches_of_all() -> None:
    case = case_from_dict({**CASE, "topology": {"nodes": 1, "devices_per_node": 3}})
    second, third = (batches(case, rank, 1)[0] for rank in (1, 2))

    images, labels = process_batches(case, rank_of(rank=1, world_size=3, devices=2), 1)[0]

    np.testing.assert_array_equal(np.concatenate([second[0], third[0]]), images)
    np.testing.assert_array_equal(np.concatenate([second[1], third[1]]), labels)


def test_an_event_is_one_line_of_json_with_the_rank() -> None:
    stream = io.StringIO()
    EventLog(3, stream).event("peak_anonymous_bytes", None, reason="not counted")

    line = json.loads(stream.getvalue()[len(PREFIX) :])

    assert 1 == stream.getvalue().count("\n")
    assert ("dlperf", "POINT_IN_TIME", "peak_anonymous_bytes", None) == (
        line["namespace"],
        line["event_type"],
        line["key"],
        line["value"],
    )
    assert {"rank": 3, "reason": "not counted"} == line["metadata"]


def test_alignment_inputs_hold_all_arrays_and_come_back(tmp_path: Path) -> None:
    case = case_from_dict(CASE)
    layers = layers_of(case)
    path = tmp_path / "inputs.npz"
    np.savez(path, **align_inputs(case, 2))

    inputs = read_inputs(str(path), case, rank_of())

    shapes = {spec.name: spec.shape for spec in parameters(layers)} | {"classifier.weight": (7, 128)}
    assert shapes == {name: array.shape for name, array in inputs.parameters.items()}
    assert buffers(layers) == {name: array.shape for name, array in inputs.buffers.items()}
    assert 2 == len(inputs.batches)
    np.testing.assert_array_equal(batches(case, 0, 2)[1][0], inputs.batches[1][0])


def test_each_rank_of_an_alignment_gets_its_share_of_the_batch_and_of_a_split_classifier(
    tmp_path: Path,
) -> None:
    topology = {"nodes": 1, "devices_per_node": 2}
    case = case_from_dict({**CASE, "topology": topology, "parallelism": "model"})
    path = tmp_path / "inputs.npz"
    given = align_inputs(case, 1)
    np.savez(path, **given)

    for rank, held in enumerate((slice(0, 4), slice(4, 7))):
        inputs = read_inputs(str(path), case, rank_of(rank=rank, world_size=2))
        expected = batches(case, rank, 1)[0]
        np.testing.assert_array_equal(expected[0], inputs.batches[0][0])
        np.testing.assert_array_equal(expected[1], inputs.batches[0][1])
        classifier = given["parameter/classifier.weight"][held]
        np.testing.assert_array_equal(classifier, inputs.parameters["classifier.weight"])


def test_each_process_of_an_alignment_has_a_file_of_its_own() -> None:
    assert ["a/out.npz", "a/out.rank3.npz"] == [outputs_name("a/out.npz", rank) for rank in (0, 3)]


class Counting:
    """A trainer of one weight, which each step raises by 1 in place."""

    def __init__(self) -> None:
        self.weight = np.zeros(2, np.float32)

    def step(self, batch: tuple, iteration: int) -> Counting:
        self.loss, self.weight[:] = batch[0] + iteration, self.weight + 1
        return self

    def wait(self) -> float:
        return self.loss

    def embeddings(self) -> np.ndarray:
        return np.full((1, 1), self.loss)

    def gradients(self) -> dict[str, np.ndarray]:
        return {"w": np.array([3.0, 4.0], np.float32)}

    def parameters(self) -> dict[str, np.ndarray]:
        return {"w": self.weight}

    def buffers(self) -> dict[str, np.ndarray]:
        return {"m": self.weight * 10}


def test_outputs_keep_the_first_step_and_the_last() -> None:
    outputs = computed(Counting(), [(10, None), (20, None), (30, None)])

    assert [10, 21, 32] == list(outputs["losses"])
    assert 10 == outputs["embeddings"].item()
    assert 5 == outputs["gradient_norm/w"].item()
    assert ([1, 1], [3, 3]) == (list(outputs["first_step/parameter/w"]), list(outputs["parameter/w"]))
    assert ([10, 10], [30, 30]) == (list(outputs["first_step/buffer/m"]), list(outputs["buffer/m"]))


CASE = {
    "framework": "pytorch",
    "version": "2.13.0",
    "parallelism": "data",
    "sample_ratio": None,
    "precision": "fp32",
    "device": "cpu",
    "batch_size_per_device": 2,
    "num_classes": 7,
    "threads_per_device": 1,
    "seed": 0,
    "options": {},
    "topology": {"nodes": 1, "devices_per_node": 1},
    "measure": {"warmup_iterations": 0, "measured_iterations": 1},
    "workload": {
        "experiment": "y1",
        "network": "mobilefacenet",
        "head": "GDC",
        "embedding_size": 128,
        "dropout": 0.0,
        "classifier_init_std": 0.01,
        "loss": {"kind": "arcface", "scale": 64.0, "m1": 1.0, "m2": 0.5, "m3": 0.0},
        "optimizer": {
            "kind": "sgd",
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "decay": "coupled",
            "no_decay": [],
        },
        "schedule": {"learning_rate": 0.1, "steps": [], "scales": []},
    },
}
