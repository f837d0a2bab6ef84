"""What a device's memory holds, by arithmetic: parts counted by hand, and what grows with what."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.files import shipped_root
from frameworks.common.case import Case, case_from_dict
from frameworks.common.memory import largest_value, memory_parts
from frameworks.common.networks import layers_of, parameters


def content(**changes: Any) -> dict[str, Any]:
    return {
        "framework": "mxnet",
        "version": "1.9.1",
        "workload": {
            "experiment": "y1",
            "network": "mobilefacenet",
            "head": "GDC",
            "embedding_size": 128,
            "dropout": 0.4,
            "dataset": "faces",
            "loss": {"kind": "arcface", "scale": 64.0, "m1": 1.0, "m2": 0.5, "m3": 0.0},
            "optimizer": {
                "kind": "sgd",
                "momentum": 0.9,
                "weight_decay": 0.0005,
                "decay": "coupled",
                "no_decay": [],
            },
            "schedule": {"learning_rate": 0.1, "steps": [], "scales": []},
            "classifier_init_std": 0.01,
        },
        "parallelism": "model",
        "sample_ratio": None,
        "precision": "fp32",
        "topology": {"nodes": 1, "devices_per_node": 2},
        "device": "cpu",
        "batch_size_per_device": 8,
        "num_classes": 1000,
        "threads_per_device": 1,
        "measure": {"warmup_iterations": 0, "measured_iterations": 1},
        "seed": 0,
        "options": {},
        **changes,
    }


def case(**changes: Any) -> Case:
    return case_from_dict(content(**changes))


def parts(**changes: Any) -> dict[str, int]:
    return {part.name: part.bytes for part in memory_parts(case(**changes))}


def test_the_classifier_is_counted_by_hand() -> None:
    """1000 classes on two devices, 128 wide, float32; the logits are those of the whole batch of 16."""
    found = parts()
    assert 4 * 500 * 128 == found["classifier weights"]
    assert 4 * 500 * 128 == found["classifier momentum"]
    assert 4 * 500 * 128 == found["classifier gradients"]
    assert 0 == found["sampled rows"]
    assert 2 * 4 * 16 * 500 == found["logits"]
    assert 4 * 8 * 3 * 112 * 112 == found["images"]


def test_partial_fc_keeps_every_class_and_trains_the_sampled_ones() -> None:
    found = parts(parallelism="partial_fc", sample_ratio=0.1, num_classes=100_000)
    assert 4 * 50_000 * 128 == found["classifier weights"]
    assert 4 * 5_000 * 128 == found["classifier gradients"]
    assert 2 * 4 * 5_000 * 128 == found["sampled rows"]


def test_data_parallel_holds_all_classes_and_the_logits_of_its_own_batch() -> None:
    found = parts(parallelism="data")
    assert 4 * 1000 * 128 == found["classifier weights"]
    assert 2 * 4 * 8 * 1000 == found["logits"]


def test_the_network_is_what_its_table_says() -> None:
    count = sum(math.prod(spec.shape) for spec in parameters(layers_of(case())))
    found = parts()
    assert 4 * count == found["network gradients"] == found["network momentum"]
    assert found["network weights"] > 4 * count  # the running statistics come on top


def test_activations_grow_with_the_batch_and_halve_with_the_precision() -> None:
    assert 3 * parts(batch_size_per_device=8)["activations"] == parts(batch_size_per_device=24)["activations"]
    assert parts(precision="fp16")["activations"] * 2 == parts()["activations"]


def test_the_margin_softmax_is_in_float32_whatever_the_precision() -> None:
    assert parts()["logits"] == parts(precision="fp16")["logits"]


@given(
    budget=st.integers(1, 1 << 34),
    granularity=st.integers(1, 5000),
    axis=st.sampled_from(["num_classes", "batch_size_per_device"]),
)
def test_the_largest_value_fits_and_one_step_more_does_not(budget: int, granularity: int, axis: str) -> None:
    upper = 1_000_000 * granularity
    made = case(parallelism="data")
    found = largest_value(made, axis, granularity, upper, budget)

    def taken(value: int) -> int:
        return sum(part.bytes for part in memory_parts(made._replace(**{axis: value})))

    if found is not None:
        assert taken(found) <= budget
        assert found % granularity == 0
    above = (found or 0) + granularity
    assert above > upper or taken(above) > budget


@pytest.mark.parametrize("budget", [1 << 31, None])
def test_the_program_answers_in_json(budget: int | None) -> None:
    search = {"axis": "num_classes", "granularity": 1000, "upper": 100_000_000}
    done = subprocess.run(
        [sys.executable, "-m", "frameworks.common.memory"],
        input=json.dumps({"case": content(), "search": search, "budget": budget}),
        cwd=shipped_root(),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert {part.name for part in memory_parts(case())} == {part["name"] for part in answer["parts"]}
    assert all(part["formula"] for part in answer["parts"])
    expected = None if budget is None else largest_value(case(), "num_classes", 1000, 100_000_000, budget)
    assert expected == answer["largest"]
