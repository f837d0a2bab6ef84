"""The two OneFlow programs, started as dlperf starts them."""

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


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_training_program_prints_every_event(
    warmup: int, case_file: Callable[..., Path], run_python: Callable[..., str]
) -> None:
    """The graph is compiled before the first step, so that it is in no step's time, warm-up or not."""
    lines = run_python("-m", "frameworks.oneflow.train", case_file(warmup_iterations=warmup)).splitlines()

    events = [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
    assert len(lines) == len(events)  # nothing else on standard output
    assert [
        "init_start",
        "framework",
        "global_batch_size",
        "model_cost",
        "matmul_flops_per_second",
        "init_stop",
        "run_start",
        *["tracked_stats"] * (warmup + 3),
        "run_stop",
        "peak_memory_bytes",
        "time_breakdown",
    ] == [event["key"] for event in events]
    steps = [event for event in events if event["key"] == "tracked_stats"]
    kinds = ["warmup"] * warmup + ["train"] * 3
    assert list(enumerate(kinds)) == [(s["metadata"]["step"], s["metadata"]["kind"]) for s in steps]
    for step in steps:
        assert np.isfinite(step["value"]["loss"])
        assert 4 == pytest.approx(step["value"]["throughput"] * step["value"]["seconds"])
    values = {event["key"]: event["value"] for event in events}
    engine = values["framework"]
    assert ("oneflow", 2, "cpu:0", 1) == tuple(
        engine[key] for key in ("name", "threads", "device", "blas_threads")
    )
    assert 1e8 < values["matmul_flops_per_second"] < 1e14
    assert 1e8 < values["peak_memory_bytes"] < 1e11
    assert {"data", "graph"} == set(values["time_breakdown"])


def aligned(
    case: Path, steps: int, run_python: Callable[..., str], folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays given to the alignment program and those that it wrote."""
    inputs_file, outputs_file = folder / "inputs.npz", folder / "outputs.npz"
    given = align_inputs(read_case(str(case)), steps)
    np.savez(inputs_file, **given)
    run_python("-m", "frameworks.oneflow.align", case, inputs_file, outputs_file)
    with np.load(outputs_file) as arrays:
        return given, dict(arrays)


def test_the_alignment_program_writes_every_array(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    given, found = aligned(case_file(), 2, run_python, tmp_path)

    arrays_given = {name for name in given if name.startswith(("parameter/", "buffer/"))}
    norms = {f"gradient_norm/{name.partition('/')[2]}" for name in given if name.startswith("parameter/")}
    firsts = {f"first_step/{name}" for name in arrays_given}
    assert {"embeddings", "losses", *norms, *arrays_given, *firsts} == set(found)
    assert ((4, 128), (2,)) == (found["embeddings"].shape, found["losses"].shape)
    assert np.isfinite(found["losses"]).all()
    for name in arrays_given:
        before, first, last = given[name], found[f"first_step/{name}"], found[name]
        assert before.shape == first.shape == last.shape
        assert (before != first).any(), name
        assert (first != last).any(), name


def test_the_gradients_are_those_of_the_graph_without_weight_decay(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """The graph's first step is -rate x (gradient + decay x weight); the gradient in it is the eager one."""
    given, found = aligned(case_file("iresnet18", "FC"), 1, run_python, tmp_path)

    for name in given:
        if name.startswith("parameter/"):
            before = given[name].astype(np.float64)
            gradient = (before - found[name]) / 0.01 - 0.0005 * before
            norm = float(found[name.replace("parameter", "gradient_norm", 1)])
            # A float32 parameter of size 1 tells its change to 6e-8, and so a gradient to 6e-6.
            coarse = 1e-5 * np.sqrt(before.size) * max(1.0, np.abs(before).max())
            assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-3, abs=coarse), name
