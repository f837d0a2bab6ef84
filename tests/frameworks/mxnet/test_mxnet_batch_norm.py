"""BatchNorm as the table means it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize("fixed", [False, True], ids=["gamma", "fixed gamma"])
def test_batch_norm_and_its_running_statistics(
    fixed: bool,  # noqa: FBT001 - a parameter of the test
    run_program: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    """The eps is the layer's, the running variance biased, a fixed gamma 1 whatever stands in its array."""
    x = np.random.default_rng(3).standard_normal((5, 2, 1, 1)).astype(np.float32) * 0.05
    gamma, eps = np.array([3.0, 0.5], np.float32), 1e-3
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=x, gamma=gamma, eps=eps)

    found = run_program("batch_norm", inputs)

    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    shape = (1, -1, 1, 1)
    normal = (x - mean.reshape(shape)) / np.sqrt(variance + eps).reshape(shape)
    expected = normal if fixed else normal * gamma.reshape(shape)
    np.testing.assert_allclose(found[f"{fixed}/output"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[f"{fixed}/mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(found[f"{fixed}/variance"], 0.9 + 0.1 * variance, rtol=1e-7)
