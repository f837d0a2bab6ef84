"""A program that prints without end: its own run fails by it, quickly, and nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sweep_lab import launch_default

if TYPE_CHECKING:
    from sweep_lab import SweepLab


@pytest.mark.slow
def test_a_run_that_floods_its_log_fails_and_the_sweep_goes_on(lab: SweepLab) -> None:
    lab.patch(launch_default("log_limit_bytes", 64 << 20))
    quiet = {"batch_size_per_device": 3, "options": {"numpy": {"fault": "none"}}}
    lab.write(order="sequential", options={"fault": "flood", "fault_step": 2}, include=[quiet])
    done = lab.run()
    assert done.returncode == 3, done.stderr
    ends = {result.case.batch_size_per_device: result for result in lab.stored()}
    assert ends[3].status == "ok"
    assert ends[2].status == "crash"
    assert (ends[2].reason or "").startswith(
        "printed more than a log may hold: rank 0 printed more than 64 MiB"
    )
    logs = [path.stat().st_size for path in (lab.results / "runs").glob("*/r1/logs/rank0.log")]
    assert max(logs) < (64 + 8) << 20
    assert lab.left() == set()
