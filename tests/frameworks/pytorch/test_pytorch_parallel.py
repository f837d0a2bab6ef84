"""Two ranks in real processes: what they print, half precision, and the end of a rank that is killed.

tests/align shows for every engine that all parallelisms compute the same function.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from frameworks.common.events import PREFIX

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SGD = {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005, "decay": "coupled", "no_decay": []}


def test_the_training_program_of_two_ranks_prints_every_event(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]]
) -> None:
    path = parallel_case("sampled", parallelism="partial_fc", sample_ratio=0.1)

    events = [
        [json.loads(line.removeprefix(PREFIX)) for line in out.splitlines() if line.startswith(PREFIX)]
        for out in run_ranks("-m", "frameworks.pytorch.train", path, ranks=2)
    ]

    for rank, of_rank in enumerate(events):
        assert {rank} == {event["metadata"]["rank"] for event in of_rank}
        assert 4 == sum(event["key"] == "tracked_stats" for event in of_rank)
    losses = [
        [event["value"]["loss"] for event in of_rank if event["key"] == "tracked_stats"] for of_rank in events
    ]
    assert losses[0] == losses[1]
    values = {event["key"]: event["value"] for event in events[0]}
    assert 8 == values["global_batch_size"]
    assert {"data", "forward_backward", "communication", "optimizer"} == set(values["time_breakdown"])
    assert all(seconds > 0 for seconds in values["time_breakdown"].values())


def test_the_loss_goes_down_in_half_precision_and_is_the_same_on_both_ranks(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    schedule = {"learning_rate": 0.01, "steps": [], "scales": []}
    path = parallel_case(
        "half",
        parallelism="model",
        precision="bf16",
        gradient_dtype="bfloat16",
        workload={"schedule": schedule, "optimizer": SGD},
    )

    first, second = run_ranks(request.path.parent / "programs/repeated.py", path, "6", ranks=2)

    assert first == second
    losses = [float(line) for line in first.splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_ranks_skip_a_step_together_whether_one_overflows_or_both(
    run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    told = run_ranks(request.path.parent / "programs/agreement.py", ranks=2)

    for rank, out in enumerate(told):
        weights, scales = json.loads(out)
        assert [1, 1, pytest.approx(1 - 0.1 * (1 + rank))] == weights
        assert [2.0**15, 2.0**14, 2.0**14] == scales


def test_gradients_travel_in_the_dtype_of_the_case(
    run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    first, second = run_ranks(request.path.parent / "programs/gradients.py", ranks=2)

    assert first == second
    found = json.loads(first)
    assert {"float32 sum": 2049, "float16 sum": 2048, "bfloat16 sum": 256}.items() <= found.items()
    assert {"float32 mean": 1024.5, "float16 mean": 1024, "bfloat16 mean": 128}.items() <= found.items()


def test_ranks_that_are_done_end_without_shutting_down_the_interpreter(
    run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    """There a late thread of gloo, as on a busy machine, would abort the rank."""
    told = run_ranks(request.path.parent / "programs/leaving.py", ranks=2)

    assert ["trained\n", "trained\n"] == told


def test_a_rank_that_is_killed_ends_the_other(
    parallel_case: Callable[..., Path],
    start_ranks: Callable[..., list[subprocess.Popen[str]]],
    request: pytest.FixtureRequest,
) -> None:
    path = parallel_case("data")
    survivor, killed = start_ranks(request.path.parent / "programs/repeated.py", path, "100000", ranks=2)
    assert float(survivor.stdout.readline()) > 0  # a step is done

    killed.kill()

    _, errors = survivor.communicate(timeout=60)
    assert 0 != survivor.returncode
    assert "Connection" in errors
