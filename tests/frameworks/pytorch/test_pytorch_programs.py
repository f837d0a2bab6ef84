"""The two PyTorch programs, started as dlperf starts them."""

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
    lines = run_python("-m", "frameworks.pytorch.train", case_file()).splitlines()

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
    facts = values["framework"]
    expected = {"name": "pytorch", "threads": 1, "device": "cpu", "fp32_precision": "ieee"}
    assert expected == {key: facts[key] for key in expected}
    assert {"memory_format": "channels_last", "compiled": False}.items() <= facts.items()
    assert facts["version"].startswith("2.13.0")
    assert facts["onednn"]
    assert 1e8 < values["matmul_flops_per_second"] < 1e14
    assert 1e8 < values["peak_memory_bytes"] < 1e11


def test_the_alignment_program_writes_every_array(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    path, inputs_file, outputs_file = case_file(), tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    given = align_inputs(read_case(str(path)), 2)
    np.savez(inputs_file, **given)

    run_python("-m", "frameworks.pytorch.align", path, inputs_file, outputs_file)

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

    run_python("-m", "frameworks.pytorch.align", path, inputs_file, outputs_file)

    with np.load(outputs_file) as arrays:
        for name in ("parameter/conv1.conv.weight", "parameter/classifier.weight"):
            before = given[name].astype(np.float64)
            gradient = (before - arrays[name]) / 0.01 - 0.0005 * before
            norm = arrays[name.replace("parameter", "gradient_norm")]
            assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_the_float64_reference_differs_by_rounding_alone(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """Statistics are compared in one convention, whatever the dtype."""
    path, inputs_file = case_file(), tmp_path / "inputs.npz"
    np.savez(inputs_file, **align_inputs(read_case(str(path)), 1))
    program = ("-m", "frameworks.pytorch.align", path, inputs_file)

    run_python(*program, tmp_path / "single.npz")
    run_python(*program, tmp_path / "double.npz", "float64")

    with np.load(tmp_path / "single.npz") as single, np.load(tmp_path / "double.npz") as double:
        assert single.files == double.files
        assert (np.float32, np.float64) == (single["embeddings"].dtype, double["embeddings"].dtype)
        for name in single.files:
            if name.startswith(("embeddings", "losses", "first_step/buffer/")):
                scale = np.abs(double[name]).max()
                np.testing.assert_allclose(single[name], double[name], atol=2e-5 * scale, err_msg=name)


def test_the_running_variance_is_given_in_the_biased_convention(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """The embedding's variance by hand: running = 0.9 before + 0.1 of the batch of four, biased.

    Behind the embedding layer stands BatchNorm without gamma: x = mean + embedding x deviation. What is
    left of a variance v is v / (v + eps), and so v can be had back from the embeddings.
    """
    path, inputs_file, outputs_file = case_file(), tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    given = align_inputs(read_case(str(path)), 1)
    np.savez(inputs_file, **given)

    run_python("-m", "frameworks.pytorch.align", path, inputs_file, outputs_file, "float64")

    name = "buffer/head.embedding_bn.running_var"
    with np.load(outputs_file) as arrays:
        share, after = arrays["embeddings"].var(axis=0), arrays[name]
    of_batch = 2e-5 * share / (1 - share)
    np.testing.assert_allclose(after, 0.9 * given[name].astype(np.float64) + 0.1 * of_batch, rtol=1e-6)
