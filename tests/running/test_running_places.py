"""Which cores a rank is bound to."""

from __future__ import annotations

import os
import socket

from hypothesis import given
from hypothesis import strategies as st

from dlperf.running.launch import bind_cpus, free_port, physical_cores

# Four cores in two packages, siblings as Linux numbers them: CPU n and n + 4 share a core.
HYPERTHREADED = {cpu: (cpu % 4 // 2, cpu % 2) for cpu in range(8)}


def test_each_thread_has_a_core_of_its_own_while_they_last() -> None:
    assert bind_cpus(HYPERTHREADED, ranks=2, threads=2) == ((0, 1), (2, 3))


def test_siblings_go_to_one_rank_when_there_are_more_threads_than_cores() -> None:
    assert bind_cpus(HYPERTHREADED, ranks=2, threads=4) == ((0, 1, 4, 5), (2, 3, 6, 7))


def test_ranks_share_cpus_where_that_comes_out_even() -> None:
    assert bind_cpus({0: (0, 0), 1: (0, 1)}, ranks=4, threads=1) == ((0,), (1,), (0,), (1,))


def test_too_few_cpus_for_an_even_share_bind_nobody() -> None:
    assert bind_cpus(HYPERTHREADED, ranks=3, threads=3) == ((), (), ())


@given(
    cores=st.dictionaries(
        st.integers(0, 500), st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=64
    ),
    ranks=st.integers(1, 8),
    threads=st.integers(1, 16),
)
def test_all_ranks_have_the_same_number_of_cpus_and_share_them_evenly(
    cores: dict[int, tuple[int, int]], ranks: int, threads: int
) -> None:
    bound = bind_cpus(cores, ranks=ranks, threads=threads)
    used = [cpu for cpus in bound for cpu in cpus]
    assert len(bound) == ranks
    assert set(used) <= set(cores)
    assert len({used.count(cpu) for cpu in used}) <= 1
    assert all(len(set(cpus)) == len(cpus) for cpus in bound)
    if ranks * threads <= len(cores):
        assert len(set(used)) == len(used) == ranks * threads
    else:
        assert {len(cpus) for cpus in bound} <= {0, threads}
    if used and ranks * threads <= len(set(cores.values())):
        assert len({cores[cpu] for cpu in used}) == len(used)


def test_the_cores_of_this_machine_are_those_of_the_affinity_mask() -> None:
    assert set(physical_cores()) == os.sched_getaffinity(0)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
