"""torch.compile on the CPU: the same losses and gradients, and compiling leaves no trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_is_eager_and_compiling_changes_nothing(
    parallel_case: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    path = parallel_case("compiled", devices=1, parallelism="model", options={"compile": True})

    found = run_program("compiled", path)

    assert [] == [name for name in found if "/left/" in name and not found[name]]
    for name, eager in found.items():
        if name.startswith("eager/") and "/left/" not in name:
            compiled = found[name.replace("eager", "compiled")]
            # The gradient of a bias in front of a BatchNorm is rounding alone.
            tolerance = 1e-5 * max(1.0, np.abs(eager).max())
            np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=tolerance, err_msg=name)
    assert np.abs(found["eager/after/a.bn.running_mean"]).max() > 0


@pytest.mark.parametrize("parallelism", ["data", "model"])
def test_cuda_graphs_are_recorded_before_the_first_step(
    parallelism: str, parallel_case: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    """Torch needs two calls for it and replays from the third on, if each call is as in a step."""
    options = {"compile": True, "cuda_graphs": True}
    workload = {"network": "iresnet18", "head": "E", "dropout": 0.4}
    path = parallel_case(
        "graphs", devices=1, batch_size=2, parallelism=parallelism, options=options, workload=workload
    )

    found = run_program("graphs", path)

    assert 3 == found["before"]
    gradients, steps, outputs_alive = found["calls"].T.tolist()
    assert [0] * 5 == gradients
    assert [1, 2, 3, 4, 5] == steps
    assert [1] * 5 == outputs_alive
    assert [] == [name for name, left in found.items() if name.startswith("left/") and not left]
    assert found["random"]


def test_a_gpu_before_volta_is_not_compiled_for_unless_asked(
    parallel_case: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    found = run_program("old_gpu", parallel_case("old_gpu", devices=1, parallelism="data"))
    assert {"6": [False, True], "7": [True, False], "9": [True, False]} == {
        capability: answers.tolist() for capability, answers in found.items()
    }
