"""Loss scales and float32 masters, as far as MXNet can be tested on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_loss_scales_and_float32_masters(
    case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    """A scale changes nothing unless gradients overflow; a float16 weight follows its float32 copy."""
    found = run_program("precision", case_file())

    chosen = found["chosen"].tolist()
    assert ["DynamicLossScale 65536.0", "LossScale 128.0", "LossScale 1.0"] == chosen
    for parallelism in ("data", "model"):
        assert_scales_change_nothing(under(found, f"{parallelism}/"))
    for decay in ("coupled", "decoupled"):
        assert_half_follows(under(found, f"half/{decay}/"), decay)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}


def assert_scales_change_nothing(found: dict[str, np.ndarray]) -> None:
    plain, static, dynamic, overflow = (
        under(found, f"{scale}/") for scale in ("plain", "static", "dynamic", "overflow")
    )
    assert [2.0**16] * 3 == dynamic.pop("factors").tolist()
    assert [2.0**140, 2.0**139, 2.0**138] == overflow.pop("factors").tolist()
    del plain["factors"], static["factors"]
    assert "classifier.weight" in plain
    for name, moved in plain.items():
        tolerance = 1e-3 * np.abs(moved).max() + 1e-7
        np.testing.assert_allclose(static[name], moved, rtol=0, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(dynamic[name], moved, rtol=0, atol=tolerance, err_msg=name)
        assert not overflow[name].any(), f"{name} moved although gradients overflowed"


def assert_half_follows(found: dict[str, np.ndarray], decay: str) -> None:
    coupled, decoupled = (0.1, 0.0) if decay == "coupled" else (0.0, 0.1)
    master = found["first"].astype(np.float64)
    velocity = np.zeros_like(master)
    for step in range(3):
        velocity = 0.9 * velocity - 0.5 * (found[f"{step}/gradient"] + coupled * master)
        master = master + velocity - 0.5 * decoupled * master
        np.testing.assert_allclose(found[f"{step}/master"], master, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[f"{step}/master"].astype(np.float16), found[f"{step}/weight"])
