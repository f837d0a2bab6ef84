"""Two ranks in real processes: how one ends when the other is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rank_processes import RankProcesses

from dlperf.files import shipped_root
from dlperf.running.launch import free_port

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# How long the other may take to end; on a quiet machine it is under a second.
END_SECONDS = 15


@pytest.mark.parametrize(
    ("victim", "messages"),
    [
        (1, ("Gloo",)),
        # Rank 0 serves the others, who may lose the server first.
        (0, ("Gloo", "JAX distributed service detected fatal errors")),
    ],
)
def test_a_killed_rank_ends_the_other(
    victim: int,
    messages: tuple[str, ...],
    engine_python: Callable[[str], Path],
    rank_processes: RankProcesses,
    request: pytest.FixtureRequest,
) -> None:
    common = {
        "PYTHONPATH": str(shipped_root()),
        "NPROC": "1",
        "DLPERF_WORLD_SIZE": "2",
        "DLPERF_LOCAL_WORLD_SIZE": "2",
        "DLPERF_MASTER_ADDRESS": "127.0.0.1",
        "DLPERF_MASTER_PORT": str(free_port()),
        "DLPERF_NODE_RANK": "0",
    }
    ranks = rank_processes.start(
        [engine_python("jax"), request.path.parent / "programs/exchanges.py"],
        ({**common, "DLPERF_RANK": str(rank), "DLPERF_LOCAL_RANK": str(rank)} for rank in range(2)),
    )
    killed, survivor = ranks[victim], ranks[1 - victim]
    assert survivor.stdout is not None
    while "1\n" != survivor.stdout.readline():  # gloo prints that it is connected
        assert survivor.poll() is None, survivor.communicate()[1]

    killed.kill()
    at = time.monotonic()
    _, errors = survivor.communicate(timeout=END_SECONDS + 60)

    assert time.monotonic() - at < END_SECONDS
    assert 0 != survivor.returncode
    assert any(message in errors for message in messages), errors
