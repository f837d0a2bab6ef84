"""The real engines train on several hosts, each in its own network namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import engines
import pytest

from dlperf.adapters.registry import load_adapters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster_lab import ClusterLab
    from slurm_lab import SlurmSweepLab
    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def with_a_short_network(lab: SweepLab) -> None:
    """For dlperf alone: the interpreters of the frameworks read the same file, and have no dlperf."""
    package = engines.short_network(lab.folder / "short")
    lab.patch(
        "import contextlib, pathlib\n"
        "with contextlib.suppress(ImportError):\n"
        "    import dlperf.files\n"
        f"    dlperf.files._PACKAGE = pathlib.Path({str(package)!r})\n"
    )


def write(lab: ClusterLab, framework: str, python: Path, **keys: object) -> None:
    version = load_adapters()[framework].versions[0]
    with_a_short_network(lab)
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


def test_each_engine_trains_on_the_two_nodes_of_a_job(
    job_lab: SlurmSweepLab, engine_python: Callable[[str], Path]
) -> None:
    names = ("mxnet", "oneflow", "pytorch")
    adapters = load_adapters()
    with_a_short_network(job_lab)
    job_lab.write_cluster(nodes=2, interface="eth0", devices=1, cores=1)
    job_lab.write(
        frameworks=[
            {"name": name, "version": adapters[name].versions[0], "python": str(engine_python(name))}
            for name in names
        ],
        options={},
        topology="2n1g",
        measure={"warmup_iterations": 1, "measured_iterations": 1, "repeats": 1},
        limits={"time": 550, "stall": 400},
    )
    done = job_lab.run()
    assert done.returncode == 0, done.stderr + "".join(
        log.read_text()[-2000:] for log in job_lab.results.rglob("rank*.log")
    )
    results = job_lab.stored()
    assert [(name, ("node0", "node1")) for name in names] == [
        (result.case.framework, result.nodes) for result in results
    ]
    assert all(result.figures is not None and result.figures.samples_per_sec > 0 for result in results)
