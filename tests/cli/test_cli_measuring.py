"""What is done with measurements of nodes: reports, comparisons, references, histories; and one is made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from measurements import make_measurement, store
from run_folders import make_case, store_good_runs
from sweep_lab import SweepLab

from dlperf.cli import main
from dlperf.results.measurement import is_measurement, read_measurement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dlperf(*words: str) -> Result:
    return CliRunner().invoke(main, words)


SLOW = {("matrix_fp32", "node2"): 0.5}


def test_a_report_shows_devices_links_and_what_is_slow(folder: Path) -> None:
    store(make_measurement(factors=SLOW, cluster="a|b <c>"), folder / "results/measurements/lab/1")
    done = dlperf("report", "results/measurements/lab/1", "--out", "lab.md")
    assert (0, "lab.md\n") == (done.exit_code, done.stdout)
    page = (folder / "lab.md").read_text()
    assert "**4 nodes: worse than it should be: node node2**" in page
    assert "- node node2: matrix rate fp32 " in page
    assert "## Bandwidth of each link (median)" in page
    assert "a&#124;b &lt;c&gt;" in page
    refused = dlperf("report", "results/measurements/lab/1", "--out", "lab.html")
    assert refused.exit_code == 2
    assert "as Markdown" in refused.stderr


def test_a_damaged_measurement_is_one_line(folder: Path) -> None:
    folder = store(make_measurement(), folder / "m")
    text = (folder / "measurement.json").read_text()
    (folder / "measurement.json").write_text(text.replace('"node":"node0"', '"node":"other"', 1))
    done = dlperf("report", "m")
    assert done.exit_code == 2
    assert done.stderr.startswith("dlperf: m/measurement.json: no measurement: ")
    assert len(done.stderr.splitlines()) == 1


def test_two_measurements_are_compared_node_by_node(folder: Path) -> None:
    store(make_measurement(seed=1), folder / "before")
    store(make_measurement(seed=2, factors=SLOW), folder / "after")
    done = dlperf("compare", "before", "after")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith("node node2: matrix rate fp32 ")
    assert done.stdout.splitlines()[0].endswith("below its own of 2026-12-01 10:00")
    same = dlperf("compare", "before", "before", "--format", "json")
    assert (0, []) == (same.exit_code, json.loads(same.stdout)["findings"])


def test_good_machines_are_saved_listed_shown_and_compared_with(folder: Path) -> None:
    store(make_measurement(seed=1), folder / "results/measurements/lab/1")
    store(make_measurement(seed=2), folder / "results/measurements/lab/2")
    store(make_measurement(1, factors={("memory_bandwidth", "node0"): 0.5}), folder / "new")
    saved = dlperf("baseline", "save", "good", "results/measurements", "--only", "node=node0,node1")
    assert (0, "baselines/good.json\n") == (saved.exit_code, saved.stdout), saved.stderr
    assert "good  2026-12-01, 1 kind of machine, PyTorch 2.13.0+cpu" in dlperf("baseline", "list").stdout
    shown = dlperf("baseline", "show", "good").stdout
    assert [line.split()[1:4] for line in shown.splitlines() if "memory" in line] == [
        ["memory", "bandwidth", "4"]
    ]
    done = dlperf("compare", "good", "new")
    assert done.exit_code == 1
    assert "below the reference good (median of 4 good ones)" in done.stdout
    unknown = dlperf("baseline", "save", "bad", "results/measurements", "--only", "node=nod1")
    assert "unknown node 'nod1' (did you mean 'node1'?)" in unknown.stderr


def test_a_history_counts_what_happened_to_a_node(folder: Path) -> None:
    store(make_measurement(factors=SLOW, lost={"node7": "no route to host"}), folder / "results/m/1")
    store(make_measurement(seed=5), folder / "results/m/2")
    store_good_runs(folder / "results/sweep", make_case(), [10.0, 11.0])
    done = dlperf("cluster", "history", "node2")
    lines = done.stdout.splitlines()
    assert (0, "node2: 0 runs, 2 measurements") == (done.exit_code, lines[0]), done.stderr
    assert ["slow", "1"] == lines[3].split()
    assert "results/m/1" in lines[-1]
    assert "nothing went wrong" in dlperf("cluster", "history", "node1").stdout
    lost = json.loads(dlperf("cluster", "history", "node7", "--json").stdout)
    assert ["lost"] == [one["what"] for one in lost["incidents"]]
    assert dlperf("cluster", "history", "node8").exit_code == 2


@pytest.mark.slow
@pytest.mark.engine
def test_this_machine_is_measured_alone(tmp_path: Path, engine_python: Callable[[str], Path]) -> None:
    lab = SweepLab(tmp_path)
    (lab.folder / "data").mkdir()
    (lab.folder / "data" / "images").write_bytes(b"x" * 100_000)
    options = ("--repeats", "1", "--seconds", "0.05", "--disk", "4MiB", "--data", str(lab.folder / "data"))
    python = ("--python", str(engine_python("pytorch")))
    done = lab.dlperf("cluster", "measure", *options, *python, "--results", "out")
    assert done.returncode == 0, done.stderr
    assert "1 node: nothing could be judged" in done.stdout
    assert is_measurement(lab.folder / "out")
    measurement = read_measurement(lab.folder / "out")
    found = {one.metric for one in measurement.series if one.median}
    assert {"matrix_fp32", "memory_bandwidth", "disk_write", "disk_read", "data_read"} <= found
    again = lab.dlperf("cluster", "measure", *options, *python, "--results", "out")
    assert again.returncode == 2
    assert "holds a measurement already" in again.stderr
