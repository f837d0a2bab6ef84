"""The programs with two ranks: events, losses, and the end of a rank that fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.case import COLLECTIVE_SECONDS
from frameworks.common.events import PREFIX

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SAMPLED = {"parallelism": "partial_fc", "sample_ratio": 0.1, "num_classes": 301}


def test_every_rank_prints_its_events(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]]
) -> None:
    """For the same steps with the same loss; the exchange of labels counts as communication."""
    case = parallel_case("events", **SAMPLED)
    losses = []
    for rank, output in enumerate(run_ranks(case, "-m", "frameworks.oneflow.train", case)):
        lines = output.splitlines()
        events = [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]
        assert len(lines) == len(events)  # nothing else on standard output
        assert {rank} == {event["metadata"]["rank"] for event in events}
        values = {event["key"]: event["value"] for event in events}
        assert {"init_stop", "run_start", "run_stop", "peak_anonymous_bytes"} < values.keys()
        assert 8 == values["global_batch_size"]
        assert {"data", "communication", "graph"} == values["time_breakdown"].keys()
        losses.append([event["value"]["loss"] for event in events if event["key"] == "tracked_stats"])
    assert 4 == len(losses[0])
    assert losses[0] == losses[1]


def test_the_loss_goes_down_on_one_batch(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], tmp_path: Path
) -> None:
    """With a tenth of the classes; the ranks keep the same network, and their own statistics."""
    schedule = {"learning_rate": 0.01, "steps": [], "scales": []}
    optimizer = {"kind": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "decay": "coupled", "no_decay": []}
    case = parallel_case("repeated", workload={"schedule": schedule, "optimizer": optimizer}, **SAMPLED)
    program = __file__.replace("test_oneflow_ranks.py", "programs/training.py")
    run_ranks(case, program, case, "5", "at_once", tmp_path / "found.npz")
    first, second = (dict(np.load(tmp_path / f"found{suffix}.npz")) for suffix in ("", ".rank1"))

    assert first["losses"].tolist() == second["losses"].tolist()
    assert first["losses"][-1] < 0.5 * first["losses"][0]
    for name in first:
        if name.startswith("after/"):
            alone = ".running_" in name or "classifier" in name
            assert alone != np.array_equal(first[name], second[name]), name


def test_a_rank_that_fails_ends_at_once_with_its_own_error(
    parallel_case: Callable[..., Path], start_ranks: Callable[..., list[subprocess.Popen[str]]]
) -> None:
    """OneFlow by itself would wait for the other rank, which waits for this one."""
    program = __file__.replace("test_oneflow_ranks.py", "programs/failing.py")
    _, failing = start_ranks(parallel_case("failing"), program)
    _, errors = failing.communicate(timeout=COLLECTIVE_SECONDS / 2)
    assert (1, "ValueError: planted") == (failing.returncode, errors.splitlines()[-1])
