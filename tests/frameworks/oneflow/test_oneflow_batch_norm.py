"""BatchNorm as the table means it, in a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_batch_norm_and_its_running_statistics(
    run_program: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """The eps is the layer's, the running variance unbiased; gamma learns, unless it is fixed at 1."""
    random = np.random.default_rng(3)
    values = {
        "map": (random.standard_normal((5, 2, 3, 3)) * 0.05).astype(np.float32),
        "vector": (random.standard_normal((5, 2)) * 0.05).astype(np.float32),
    }
    factors = {
        f"{name}_factor": random.standard_normal(x.shape).astype(np.float32) for name, x in values.items()
    }
    beta, eps = np.array([3.0, 0.5], np.float32), 1e-3
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, **values, **factors, beta=beta, eps=eps)

    found = run_program("batch_norm", inputs)

    for name, x in values.items():
        axes = (0, 2, 3)[: x.ndim - 1]
        shape = (1, -1, 1, 1)[: x.ndim]
        mean, variance = x.mean(axis=axes), x.var(axis=axes, ddof=1)
        normal = (x - mean.reshape(shape)) / np.sqrt(x.var(axis=axes) + eps).reshape(shape)
        gamma = 1 - 0.5 * (normal * factors[name + "_factor"]).sum(axis=axes)
        for fixed in (False, True):
            result = {key: found[f"{name}/{fixed}/{key}"] for key in ("output", "gamma")}
            np.testing.assert_allclose(result["output"], normal + beta.reshape(shape), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(result["gamma"], 1 if fixed else gamma, rtol=1e-4, atol=1e-5)
            running = {key: found[f"{name}/{fixed}/bn.running_{key}"] for key in ("mean", "var")}
            np.testing.assert_allclose(running["mean"], 0.1 * mean, rtol=1e-4, atol=1e-8)
            np.testing.assert_allclose(running["var"], 0.9 + 0.1 * variance, rtol=1e-6)
