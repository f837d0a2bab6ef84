"""PReLU's gradients, which MXNet's own operator gets wrong in a hybridized graph."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_slope_and_input_gradients_match_the_formula(
    run_program: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Of sum(factor x prelu(x)), followed by a convolution or nothing; at x = 0 the slope holds."""
    found = run_program("prelu")
    x, factor, slope = found["x"], found["factor"], found["slope"].reshape(1, -1, 1, 1)
    slope_gradient = (factor * np.minimum(x, 0)).sum(axis=(0, 2, 3))
    input_gradient = factor * np.where(x > 0, 1, slope)
    for form, neighbour, mode in product(
        ("convolution", "broadcast"), ("3x3", "1x1", "none"), ("hybrid", "eager")
    ):
        graph = f"{form}/{neighbour}/{mode}"
        np.testing.assert_allclose(found[f"{graph}/slope"], slope_gradient, rtol=1e-5, err_msg=graph)
        np.testing.assert_allclose(
            found[f"{graph}/input"], input_gradient, rtol=1e-5, atol=1e-7, err_msg=graph
        )
    # These graphs do show the fault: here the operator multiplies the slope's gradient by the slope.
    np.testing.assert_allclose(found["operator/3x3/hybrid/slope"], slope_gradient * found["slope"], rtol=1e-5)
    np.testing.assert_allclose(found["operator/3x3/eager/slope"], slope_gradient, rtol=1e-5)
