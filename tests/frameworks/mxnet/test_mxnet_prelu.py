"""PReLU's gradients, which MXNet's own operator gets wrong in a hybridized graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case
from frameworks.common.events import PREFIX

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
    np.testing.assert_allclose(found["native/3x3/hybrid/slope"], slope_gradient * found["slope"], rtol=1e-5)
    np.testing.assert_allclose(found["native/3x3/eager/slope"], slope_gradient, rtol=1e-5)


def test_a_run_with_mxnets_own_operator_warns_and_its_alignment_is_refused(
    case_file: Callable[..., Path],
    run_python: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The event also says with which tuning the run computed, whoever set it."""
    monkeypatch.setenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", "10")
    case = case_file(batch_size=2, options={"prelu": "native"})
    lines = run_python("-m", "frameworks.mxnet.train", case).splitlines()
    events = [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
    facts = next(event["value"] for event in events if event["key"] == "framework")
    assert "native" == facts["prelu"]
    assert (
        "prelu: native may compute a wrong gradient of PReLU's slope; only its speed counts"
        == facts["caution"]
    )
    assert {"MXNET_OPTIMIZER_AGGREGATION_SIZE": "10"} == facts["tuning"]
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, **align_inputs(read_case(str(case)), 1))
    with pytest.raises(AssertionError, match="can compute a wrong gradient of the slope; align convolution"):
        run_python("-m", "frameworks.mxnet.align", case, inputs, tmp_path / "outputs.npz")
