"""The training program with two ranks, started as dlperf starts them."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frameworks.common.events import PREFIX

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# How long the others may take to end after a rank was killed; on a quiet machine it is one second.
END_SECONDS = 15


def events_of(output: str) -> list[dict]:
    lines = output.splitlines()
    return [json.loads(line.removeprefix(PREFIX)) for line in lines if line.startswith(PREFIX)]


@pytest.mark.parametrize("devices", [1, 2], ids=["two processes", "one process"])
def test_every_rank_prints_its_events(
    devices: int, parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]]
) -> None:
    path = parallel_case("events", parallelism="partial_fc", sample_ratio=0.1)
    outputs = run_ranks("-m", "frameworks.mxnet.train", path, ranks=2 // devices, devices=devices)

    found = [events_of(output) for output in outputs]
    for rank, events in enumerate(found):
        assert {rank} == {event["metadata"]["rank"] for event in events}
        values = {event["key"]: event["value"] for event in events}
        assert 8 == values["global_batch_size"]
        assert ["cpu(0)", "cpu(0), cpu(1)"][devices - 1] == values["framework"]["device"]
        assert ({"horovod": "0.28.1"}.items() <= values["framework"].items()) == (devices == 1)
        assert {"data", "forward_backward", "communication", "optimizer"} == set(values["time_breakdown"])
        assert values["peak_anonymous_bytes"] > 1e8
    losses = [[e["value"]["loss"] for e in events if e["key"] == "tracked_stats"] for events in found]
    assert 4 == len(losses[0])
    assert all(losses[0] == of_rank for of_rank in losses), "every rank has the loss of the global batch"


def test_gradients_travel_in_the_dtype_of_the_case_whatever_the_weights_have(
    run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    first, *others = run_ranks(request.path.parent / "programs/gradients.py", ranks=3)

    assert [first, first] == others
    found = json.loads(first)
    assert {"float16": 2050, "float32": 2049} == found["float32"]
    assert 2048 == found["float16"]["float32"]
    assert found["float16"]["float16"] in (2048, 2050)


def test_a_killed_rank_ends_the_other(
    parallel_case: Callable[..., Path], start_ranks: Callable[..., list[subprocess.Popen[str]]]
) -> None:
    long = {"warmup_iterations": 0, "measured_iterations": 10_000}
    path = parallel_case("killed", parallelism="model", measure=long)
    survivor, victim = start_ranks("-m", "frameworks.mxnet.train", path, ranks=2)
    assert victim.stdout is not None
    steps = (line for line in victim.stdout if "tracked_stats" in line)
    assert 2 == len(list(itertools.islice(steps, 2)))

    victim.kill()
    killed = time.monotonic()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(survivor.communicate()[1]))
    reader.start()
    reader.join(END_SECONDS + 60)

    assert time.monotonic() - killed < END_SECONDS
    assert 1 == survivor.returncode
    assert "Horovod has been shut down" in errors[0]
