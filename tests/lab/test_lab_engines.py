"""The real engines train on several hosts, each in its own network namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.registry import load_adapters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster_lab import ClusterLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def write(lab: ClusterLab, framework: str, python: Path, **keys: object) -> None:
    version = load_adapters()[framework].versions[0]
    lab.write_cluster(interface="eth0", devices=1, cores=1)
    lab.write(
        frameworks=[{"name": framework, "version": version, "python": str(python)}],
        options={},
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1},
        limits={"time": 550, "stall": 400},
        **keys,
    )


@pytest.mark.parametrize(
    ("framework", "topology", "parallelism"),
    [
        ("pytorch", "2n1g", "data"),
        ("oneflow", "2n1g", "data"),
        ("mxnet", "2n1g", "data"),
        ("pytorch", "4n1g", "model"),
    ],
)
def test_an_engine_trains_on_several_hosts(
    lab: ClusterLab,
    engine_python: Callable[[str], Path],
    framework: str,
    topology: str,
    parallelism: str,
) -> None:
    write(lab, framework, engine_python(framework), topology=topology, parallelism=parallelism)
    done = lab.run()
    assert done.returncode == 0, done.stderr + "".join(
        log.read_text()[-2000:] for log in lab.results.rglob("rank*.log")
    )
    (result,) = lab.stored()
    nodes = int(topology[0])
    assert result.nodes == tuple(f"node{number}" for number in range(nodes))
    assert result.figures.samples_per_sec > 0
