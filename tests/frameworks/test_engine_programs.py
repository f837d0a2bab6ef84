"""The two programs of every engine, started as dlperf starts them: what they print and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import JAX, MXNET, ONEFLOW, PYTORCH, Engine

from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case
from frameworks.common.events import PREFIX

pytestmark = [pytest.mark.engine, pytest.mark.slow]

EVERY_ENGINE = pytest.mark.parametrize(
    "engine", [JAX, MXNET, ONEFLOW, PYTORCH], ids=lambda engine: engine.name
)
# What the `framework` event says among others, and the parts of a step that the engine tells.
FACTS: dict[str, dict[str, Any]] = {
    "jax": {"device": "cpu", "threads": 1, "loss_scale": "none"},
    "mxnet": {"device": "cpu(0)", "threads": 2},
    "oneflow": {"device": "cpu:0", "threads": 2, "blas_threads": 1},
    "pytorch": {
        "device": "cpu",
        "threads": 1,
        "memory_format": "channels_last",
        "compiled": False,
    },
}
PARTS = {
    "jax": {"data", "graph"},
    "mxnet": {"data", "forward_backward", "optimizer"},
    "oneflow": {"data", "graph"},
    "pytorch": {"data", "forward_backward", "optimizer"},
}


@EVERY_ENGINE
def test_the_training_program_prints_every_event_and_nothing_else(
    engine: Engine, case_file: Callable[..., Path], run_python: Callable[..., str]
) -> None:
    lines = run_python("-m", f"frameworks.{engine.name}.train", case_file(), threads=2).splitlines()

    events = [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
    assert len(lines) == len(events)
    assert [
        "init_start",
        "framework",
        "global_batch_size",
        "model_cost",
        "matmul_flops_per_second",
        "init_stop",
        "run_start",
        "tracked_stats",
        "interference",
        *["tracked_stats"] * 3,
        "interference",
        "run_stop",
        "peak_anonymous_bytes",
        "time_breakdown",
    ] == [event["key"] for event in events]
    steps = [event for event in events if event["key"] == "tracked_stats"]
    assert [(0, "warmup"), (1, "train"), (2, "train"), (3, "train")] == [
        (step["metadata"]["step"], step["metadata"]["kind"]) for step in steps
    ]
    for step in steps:
        assert np.isfinite(step["value"]["loss"])
        assert 4 == pytest.approx(step["value"]["throughput"] * step["value"]["seconds"])
    values = {event["key"]: event["value"] for event in events}
    facts = values["framework"]
    ieee = {"fp32_precision": "ieee", "fp32_arithmetic": {"product": "ieee", "convolution": "ieee"}}
    expected = {"name": engine.name, **FACTS[engine.name], **ieee}
    assert expected == {key: facts[key] for key in expected}
    assert engine.version == facts["version"].partition("+")[0]
    assert 1e8 < values["matmul_flops_per_second"] < 1e14
    assert 1e8 < values["peak_anonymous_bytes"] < 1e11
    assert PARTS[engine.name] == set(values["time_breakdown"])
    assert values["interference"]["run_seconds"] > 0


@EVERY_ENGINE
def test_the_alignment_program_writes_every_array_and_gradients_without_weight_decay(
    engine: Engine, case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """The first step is -rate x (gradient + decay x weight); without the decay it has the norm."""
    path, inputs_file, outputs_file = case_file(), tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    given = align_inputs(read_case(str(path)), 2)
    np.savez(inputs_file, **given)

    run_python("-m", f"frameworks.{engine.name}.align", path, inputs_file, outputs_file)

    with np.load(outputs_file) as arrays:
        found = dict(arrays)
    trained = {name for name in given if name.startswith("parameter/")}
    both = {*trained, *(name for name in given if name.startswith("buffer/"))}
    norms = {name.replace("parameter", "gradient_norm", 1) for name in trained}
    assert {"embeddings", "losses", *norms, *both, *(f"first_step/{name}" for name in both)} == set(found)
    assert ((4, 128), (2,)) == (found["embeddings"].shape, found["losses"].shape)
    assert np.isfinite(found["losses"]).all()
    for name in both:
        before, first, last = given[name], found[f"first_step/{name}"], found[name]
        assert before.shape == first.shape == last.shape
        assert (before != first).any(), name
        assert (first != last).any(), name
    for name in trained:
        before = given[name].astype(np.float64)
        gradient = (before - found[f"first_step/{name}"]) / 0.01 - 0.0005 * before
        # A float32 parameter of size 1 tells its change to 6e-8, and so a gradient to 6e-6.
        coarse = 1e-5 * np.sqrt(before.size) * max(1.0, np.abs(before).max())
        norm = float(found[name.replace("parameter", "gradient_norm", 1)])
        assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-3, abs=coarse), name
