"""The two MXNet programs, started as dlperf starts them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case
from frameworks.common.events import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_the_training_program_prints_every_event(
    case_file: Callable[..., Path], run_python: Callable[..., str]
) -> None:
    lines = run_python("-m", "frameworks.mxnet.train", case_file(), threads=2).splitlines()

    events = [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
    assert [
        "init_start",
        "framework",
        "global_batch_size",
        "model_cost",
        "matmul_flops_per_second",
        "init_stop",
        "run_start",
        *["tracked_stats"] * 4,
        "run_stop",
        "peak_memory_bytes",
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
    assert ("mxnet", 2, "cpu(0)") == tuple(values["framework"][key] for key in ("name", "threads", "device"))
    assert "MKLDNN" in values["framework"]["features"]
    assert 1e8 < values["matmul_flops_per_second"] < 1e14
    assert 1e8 < values["peak_memory_bytes"] < 1e11
    assert {"data", "forward_backward", "optimizer"} == set(values["time_breakdown"])


def test_the_alignment_program_writes_every_array(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    path, inputs_file, outputs_file = case_file(), tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    given = align_inputs(read_case(str(path)), 2)
    np.savez(inputs_file, **given)

    run_python("-m", "frameworks.mxnet.align", path, inputs_file, outputs_file)

    with np.load(outputs_file) as arrays:
        found = dict(arrays)
    arrays_given = {name for name in given if name.startswith(("parameter/", "buffer/"))}
    norms = {f"gradient_norm/{name.partition('/')[2]}" for name in given if name.startswith("parameter/")}
    assert {
        "embeddings",
        "losses",
        *norms,
        *arrays_given,
        *(f"first_step/{name}" for name in arrays_given),
    } == set(found)
    assert ((4, 128), (2,)) == (found["embeddings"].shape, found["losses"].shape)
    assert np.isfinite(found["losses"]).all()
    for name in arrays_given:
        before, first, last = given[name], found[f"first_step/{name}"], found[name]
        assert before.shape == first.shape == last.shape
        assert (before != first).any(), name
        assert (first != last).any(), name


def test_the_gradient_norms_are_without_weight_decay(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """The first step is -rate x (gradient + decay x weight): what is left without the decay has that norm."""
    path, inputs_file, outputs_file = case_file(), tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    given = align_inputs(read_case(str(path)), 1)
    np.savez(inputs_file, **given)

    run_python("-m", "frameworks.mxnet.align", path, inputs_file, outputs_file)

    with np.load(outputs_file) as arrays:
        for name in ("parameter/conv1.conv.weight", "parameter/classifier.weight"):
            before = given[name].astype(np.float64)
            gradient = (before - arrays[name]) / 0.01 - 0.0005 * before
            norm = arrays[name.replace("parameter", "gradient_norm")]
            assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
