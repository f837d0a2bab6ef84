"""Two ranks in real processes: the three ways to split a case compute one function, that of the reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from frameworks.common.events import PREFIX

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Arrays = dict[str, np.ndarray]

CLASSIFIER = "parameter/classifier.weight"
# How far apart two computations of the same in float32 may be, in units of an array's largest value.
TOLERANCE = 1e-4
SGD = {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005, "decay": "coupled", "no_decay": []}


def as_one(of_ranks: list[Arrays], *, split: bool) -> Arrays:
    """What the ranks of a case computed, as one process of all devices shows it."""
    joined = dict(of_ranks[0])
    joined["embeddings"] = np.concatenate([arrays["embeddings"] for arrays in of_ranks])
    for name in of_ranks[0]:
        if "buffer/" in name:
            joined[name] = np.stack([arrays[name] for arrays in of_ranks])
        elif split and name.endswith(CLASSIFIER):
            joined[name] = np.concatenate([arrays[name] for arrays in of_ranks])
        elif split and name == "gradient_norm/classifier.weight":
            joined[name] = np.linalg.norm([arrays[name] for arrays in of_ranks])
    return joined


def assert_same(expected: Arrays, found: Arrays) -> None:
    """By the measures of `dlperf align`: gradient norms, which kinks of PReLU move, count by themselves."""
    assert expected.keys() == found.keys()
    norms = {name: array for name, array in expected.items() if name.startswith("gradient_norm/")}
    floor = 1e-3 * np.linalg.norm(list(norms.values()))
    for name, array in expected.items():
        assert array.shape == found[name].shape, name
        allowed = 1e-3 * max(array, floor) if name in norms else TOLERANCE * np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=allowed, err_msg=name)


def test_data_model_and_whole_partial_fc_are_the_one_process_reference(
    parallel_case: Callable[..., Path], align: Callable[..., list[Arrays]]
) -> None:
    """51 classes over two ranks, three steps: losses, embeddings, gradients, statistics and parameters."""
    data = parallel_case("data")
    model = parallel_case("model", parallelism="model")
    whole = parallel_case("whole", parallelism="partial_fc", sample_ratio=1.0)

    (reference,) = align(data, ranks=1, devices=2, dtype="float64")

    for path in (data, model, whole):
        of_ranks = align(path, ranks=2)
        assert of_ranks[0]["losses"].tolist() == of_ranks[1]["losses"].tolist()
        assert_same(reference, as_one(of_ranks, split=path != data))
    assert (26, 128) == of_ranks[0][CLASSIFIER].shape


def test_a_sample_of_the_classes_is_the_one_process_reference_of_the_same_sample(
    parallel_case: Callable[..., Path], align: Callable[..., list[Arrays]]
) -> None:
    path = parallel_case("sampled", parallelism="partial_fc", sample_ratio=0.1)

    (reference,) = align(path, ranks=1, devices=2, dtype="float64")
    of_ranks = align(path, ranks=2)

    assert_same(reference, as_one(of_ranks, split=True))


def test_with_frozen_statistics_two_ranks_are_one_with_the_whole_batch(
    parallel_case: Callable[..., Path], align: Callable[..., list[Arrays]]
) -> None:
    frozen = {"batch_norm": "frozen"}
    of_ranks = align(parallel_case("two", workload=frozen, parallelism="model"), ranks=2)
    one = parallel_case("one", devices=1, workload=frozen, batch_size=8, parallelism="model")
    inputs = one.parent / "two.inputs.npz"
    (single,) = align(one, ranks=1, inputs=inputs)

    found = as_one(of_ranks, split=True)
    buffers = {name: array[0] for name, array in found.items() if "buffer/" in name}
    assert_same(single, {**found, **buffers})
    for name in buffers:
        assert (found[name][0] == found[name][1]).all()


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


def test_the_loss_goes_down_in_half_precision_and_is_one_for_both_ranks(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    schedule = {"learning_rate": 0.01, "steps": [], "scales": []}
    path = parallel_case(
        "half",
        parallelism="model",
        precision="bf16",
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
