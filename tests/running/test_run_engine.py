"""`dlperf run` with a real engine: its threads and helper processes end like any other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from processes import PROMISED_SECONDS, until

from dlperf.adapters.registry import load_adapters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def write(lab: SweepLab, python: Path, *, iterations: int) -> None:
    version = load_adapters()["pytorch"].versions[0]
    lab.write(
        frameworks=[{"name": "pytorch", "version": version, "python": str(python)}],
        options={},
        measure={"warmup_iterations": 1, "measured_iterations": iterations, "repeats": 1},
    )


def test_pytorch_is_killed_with_dlperf_and_measured_when_it_is_started_again(
    lab: SweepLab, engine_python: Callable[[str], Path]
) -> None:
    python = engine_python("pytorch")
    write(lab, python, iterations=3)
    process = lab.start()
    until(lambda: lab.logged('"key": "init_stop"'), limit=300)
    process.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS)
    assert lab.stored() == []
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert result.figures is not None
    assert result.figures.samples_per_sec > 0
    assert result.engine.facts["threads"] == 1
