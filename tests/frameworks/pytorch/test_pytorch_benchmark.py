"""The GPU benchmark in its tiny form, to keep it running."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize("arguments", [(), ("--parallelism", "partial_fc", "--classes", "300")])
def test_without_a_gpu_it_runs_small_and_says_that_its_figures_mean_nothing(
    arguments: tuple[str, ...], run_python: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    program = request.config.rootpath / "benchmarks/pytorch_gpu.py"

    lines = run_python(program, *arguments).splitlines()

    assert "no GPU: figures mean nothing" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines[-2:]}
    assert {"dlperf", "recipe"} == rows.keys()
    for rate, _spread, teraflops, share in rows.values():
        assert float(rate) > 0
        assert float(teraflops) >= 0
        assert share.endswith("%")
