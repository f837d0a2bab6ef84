"""PyTorch's alignment program in float64, which is the reference of all engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_the_float64_reference_differs_only_by_rounding(
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


def test_the_running_variance_is_biased(
    case_file: Callable[..., Path], run_python: Callable[..., str], tmp_path: Path
) -> None:
    """The embedding's variance by hand: running = 0.9 before + 0.1 of the batch of four, biased.

    The embedding layer is followed by BatchNorm without gamma: x = mean + embedding x deviation. A variance v
    becomes v / (v + eps), so v can be computed from the embeddings.
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
