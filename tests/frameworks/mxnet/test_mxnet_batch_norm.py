"""BatchNorm as the table defines it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


SHAPE = (1, -1, 1, 1)


def test_batch_norm_and_its_running_statistics(
    run_program: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """The eps is the layer's, the running variance biased, a fixed gamma 1 whatever stands in its array.

    A frozen one normalises by its running statistics, leaves them, and has the gradients of that function.
    """
    random = np.random.default_rng(3)
    x = random.standard_normal((5, 2, 1, 1)).astype(np.float32) * 0.05
    factor = random.standard_normal(x.shape).astype(np.float32)
    gamma, eps = np.array([3.0, 0.5], np.float32), 1e-3
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=x, gamma=gamma, eps=eps, factor=factor)

    found = run_program("batch_norm", inputs)

    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    normal = (x - mean.reshape(SHAPE)) / np.sqrt(variance + eps).reshape(SHAPE)
    for fixed in (False, True):
        expected = normal if fixed else normal * gamma.reshape(SHAPE)
        np.testing.assert_allclose(found[f"{fixed}/output"], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[f"{fixed}/mean"], 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(found[f"{fixed}/variance"], 0.9 + 0.1 * variance, rtol=1e-7)

    mean, variance = np.array([0.1, -0.2], np.float32), np.array([0.5, 2.0], np.float32)
    slope = gamma / np.sqrt(variance + eps)
    normal = (x - mean.reshape(SHAPE)) / np.sqrt(variance + eps).reshape(SHAPE)
    np.testing.assert_array_equal(found["frozen/mean"], mean)
    np.testing.assert_array_equal(found["frozen/variance"], variance)
    np.testing.assert_allclose(found["frozen/output"], normal * gamma.reshape(SHAPE), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["frozen/by_input"], factor * slope.reshape(SHAPE), rtol=1e-4)
    np.testing.assert_allclose(found["frozen/by_gamma"], (factor * normal).sum(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(found["frozen/by_beta"], factor.sum(axis=(0, 2, 3)), rtol=1e-4)
