"""A search for a limit over several nodes: what runs out of memory may be a rank far away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.results.schema import LimitStatus
from dlperf.results.store import read_limits

if TYPE_CHECKING:
    from cluster_lab import ClusterLab

GRANULARITY = 150


def test_the_first_rank_to_run_out_sets_the_limit_on_whatever_node_it_is(lab: ClusterLab) -> None:
    lab.write(
        topology="2n1g",
        batch_size_per_device="max",
        memory="256MiB",
        search={"iterations": 2, "batch_size_per_device": {"granularity": GRANULARITY, "upper": 1200}},
        options={"leak_rank": 1, "leak_bytes": 28_000_000},
    )
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (limit,) = read_limits(lab.results)
    record = limit.record
    assert LimitStatus.FOUND is record.status
    assert (record.trains or 0) + GRANULARITY == record.fails
    reasons = {probe.value: probe.reason or "" for probe in record.probes if probe.status == "oom"}
    assert "rank 1" in reasons[record.fails or 0]  # rank 0 would have had room for more
    assert lab.stored()[0].case.batch_size_per_device == record.trains
    assert [] == lab.left_on(lab.net.hosts[1])
