"""A case of several ranks: where they run, and what becomes of it when one of them ends."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from processes import marked
from run_folders import make_case

from dlperf.adapters.base import RankCommand, RankPlacement
from dlperf.plan.case import Topology
from dlperf.plan.sweep import Limits
from dlperf.running.launch import launch_file

if TYPE_CHECKING:
    from sweep_lab import SweepLab

CORES = len(os.sched_getaffinity(0))


def test_a_killed_rank_ends_the_case_as_a_crash_that_names_it(lab: SweepLab) -> None:
    lab.write(
        topology="1n2g",
        oversubscribe=True,
        options={"fault": "kill", "fault_rank": 1, "fault_step": 2, "step_seconds": 0.1},
        include=[{"topology": "1n1g", "options": {"numpy": {"fault": "none"}}}],
    )

    assert 3 == lab.run().returncode

    ends = {str(result.case.topology): result for result in lab.stored()}
    assert ("crash", "ok") == (ends["1n2g"].status, ends["1n1g"].status)
    assert (ends["1n2g"].reason or "").startswith("rank 1 was ended by SIGKILL")
    assert set() == marked(lab.mark)


def test_more_devices_than_cores_are_refused_in_one_line_before_anything_starts(lab: SweepLab) -> None:
    lab.write(topology=f"1n{CORES + 1}g")

    done = lab.run()

    assert 3 == done.returncode
    needed = f"needs {CORES + 1} CPU cores, one per thread; this machine has {CORES}"
    assert done.stderr.startswith(f"1 case unavailable: {needed}")
    assert [] == lab.run_folders()


def test_devices_share_cores_where_the_sweep_says_so(lab: SweepLab) -> None:
    lab.write(topology=f"1n{2 * CORES}g", oversubscribe=True)

    assert 0 == lab.run().returncode

    (result,) = lab.stored()
    assert 2 * CORES * 2 == result.case.global_batch_size
    (folder,) = lab.run_folders()
    assert 2 * CORES == len(list((folder / "logs").glob("rank*.log")))


def test_a_port_that_is_taken_is_named_before_anything_starts(lab: SweepLab) -> None:
    lab.write()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = lab.run("--port", str(port))

    assert 2 == done.returncode
    assert f"--port: {port} is in use on this machine" in done.stderr
    assert not (lab.folder / "results").exists()


def place(rank: int) -> RankPlacement:
    return RankPlacement(
        rank=rank, local_rank=rank, node_rank=0, cpus=(rank,), master_address="127.0.0.1", master_port=1
    )


def launched(devices: tuple[int, ...]) -> list[tuple[int, tuple[int, ...], str]]:
    """Rank, cores and log of the processes, when an adapter drives three places by so many each."""
    told = launch_file(
        make_case(topology=Topology(nodes=1, devices_per_node=3)),
        placements=[place(rank) for rank in range(3)],
        commands=[RankCommand(argv=("x",), env={}, devices=count) for count in devices],
        limits=Limits(),
        node_rank=0,
    )
    return [(rank.rank, rank.cpus, rank.log) for rank in told.ranks]


def test_a_process_that_drives_several_devices_gets_the_cores_of_all() -> None:
    assert [(0, (0, 1), "logs/rank0.log"), (2, (2,), "logs/rank2.log")] == launched((2, 1))


@pytest.mark.parametrize("devices", [(2,), (3, 1), (1, 1, 1, 1)])
def test_processes_that_do_not_fit_the_places_are_refused(devices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="process"):
        launched(devices)
