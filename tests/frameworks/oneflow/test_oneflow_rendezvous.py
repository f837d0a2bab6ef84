"""How the ranks of OneFlow meet, and the error if they cannot."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dlperf.files import shipped_root
from frameworks.common.case import RENDEZVOUS_SECONDS

# The limit, made short; everything else is the program's.
SHORT = """
from frameworks.common import case
case.RENDEZVOUS_SECONDS = 2
import frameworks.oneflow
"""


def meet(python: str | Path, port: int, program: str, *, rank: int) -> subprocess.CompletedProcess[str]:
    place = {
        "PYTHONPATH": str(shipped_root()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    return subprocess.run(
        [str(python), "-c", program],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=RENDEZVOUS_SECONDS,
        check=False,
    )


@pytest.mark.engine
@pytest.mark.slow
def test_a_rank_that_does_not_come_is_waited_for_only_so_long(engine_python: Callable[[str], Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = meet(engine_python("oneflow"), port, SHORT, rank=0)
    assert 1 == done.returncode
    assert "Timeout (0:00:02)!" in done.stderr
    assert "in meet" in done.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_a_port_that_is_taken_ends_rank_0_with_one_line(engine_python: Callable[[str], Path]) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        done = meet(engine_python("oneflow"), port, "import frameworks.oneflow", rank=0)
    assert 1 == done.returncode
    last = done.stderr.splitlines()[-1]
    assert last.endswith(
        f"RendezvousError: rank 0 cannot serve the other ranks at port {port}: Address already in use"
    )
