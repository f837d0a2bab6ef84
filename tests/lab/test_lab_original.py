"""An original program on a node: its source is sent once, its copy goes with the run."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from cluster_lab import WORK
from sweep_lab import THIRD_PARTY

if TYPE_CHECKING:
    from cluster_lab import ClusterLab


def test_an_original_program_runs_on_a_node_from_a_source_that_is_sent_once(lab: ClusterLab) -> None:
    shutil.copytree(
        THIRD_PARTY / "pixel_trainer",
        lab.folder / "trainer",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    lab.write_cluster(hosts=1)
    lab.write(
        framework="pixels",
        frameworks=[{"name": "pixels", "python": sys.executable, "source": "trainer"}],
        topology="1n2g",
        measure={"warmup_iterations": 20, "measured_iterations": 100, "repeats": 2},
    )
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert [("ok", 100)] * 2 == [
        (result.status.value, result.figures.accepted_steps) for result in lab.stored()
    ]
    (digest,) = {result.case.source.content_hash for result in lab.stored()}
    assert done.stderr.count("node0: copying the original program") == 1
    (host, *_) = lab.net.hosts
    assert (host.path(WORK) / "sources" / digest / "recognition" / "train.py").is_file()
    assert [] == list(host.path(f"{WORK}/runs").iterdir())
    for folder in lab.run_folders():
        assert "+FREQUENT = 10" in (folder / "logs" / "rank0.log").read_text()
        assert '"program.json"' in (folder / "launch.json").read_text()
    cleaned = lab.dlperf("cluster", "clean", "lab", "--everything")
    assert cleaned.returncode == 0, cleaned.stderr
    assert not (host.path(WORK) / "sources").exists()
