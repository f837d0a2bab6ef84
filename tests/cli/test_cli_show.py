"""`dlperf show`: one case with its runs, figures, software, commands and logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from plans import write_plan
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.plan.case import Topology
from dlperf.plan.plan import PlanStatus
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


def facts(text: str, section: str) -> dict[str, str]:
    """The lines of one section as name and value."""
    body = text.split(f"\n{section}\n", 1)[1].split("\n\n", 1)[0]
    return {line[2:].split("  ")[0]: line.split("  ")[-1].strip() for line in body.splitlines()}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    store_good_runs(folder, make_case(), [10.0, 11.0])
    bad = write_run(
        folder, make_case(), repeat=3, log="ValueError: \x1b[31mx\n", outcome=failed("rank_failed")
    )
    launch = {"ranks": [{"rank": 0, "argv": ["python", "-m", "train", "a b"]}]}
    (next((folder / "runs").glob("*/r1")) / "launch.json").write_text(json.dumps(launch))
    store_run(bad)
    return folder


def test_everything_about_a_case(sweep: Path) -> None:
    done = run(make_case().content_hash, sweep)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == make_case().case_id
    figures = facts(done.stdout, "figures")
    assert figures["samples/s"] == "10.50 (median of 2)"
    assert figures["status"] == "ok"
    assert facts(done.stdout, "run 1")["samples/s"] == "10.00"
    assert facts(done.stdout, "run 3")["evidence"] == "logs/rank0.log:1: ValueError: x"
    assert facts(done.stdout, "run 3")["logs"].endswith("r3/logs")
    assert facts(done.stdout, "software")["threads"] == "2"
    assert facts(done.stdout, "command") == {"rank 0": "python -m train 'a b'"}


def test_the_same_as_json(sweep: Path) -> None:
    store_good_runs(sweep, make_case(topology=Topology(nodes=1, devices_per_node=4)), [21.0])
    (entry,) = json.loads(run(make_case().content_hash, sweep, "--json").stdout)
    assert entry["figures"]["samples_per_sec"] == 10.5
    assert [stored["result"]["status"] for stored in entry["runs"]] == ["ok", "ok", "crash"]
    assert entry["runs"][0]["result"]["figures"]["samples_per_sec"] == pytest.approx(10.0)
    assert entry["runs"][0]["folder"].endswith("/r1")
    (four,) = json.loads(run("1n4g", sweep, "--json").stdout)
    assert four["case"]["topology"] == {"nodes": 1, "devices_per_node": 4}
    assert four["figures"]["speedup"] == 2.0


def test_one_run_has_no_interval_and_it_is_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    assert (
        facts(run("mxnet", tmp_path).stdout, "figures")["95 % interval"] == "none: needs at least 3 good runs"
    )


@pytest.mark.parametrize("content", ["[]", "[" * 100_000 + "]" * 100_000])
def test_a_damaged_launch_file_is_named(content: str, sweep: Path) -> None:
    next((sweep / "runs").glob("*/r1/launch.json")).write_text(content)
    assert facts(run("mxnet", sweep).stdout, "command") == {
        "launch.json": "damaged: not the JSON of a launch file"
    }


def test_an_unknown_name_ends_with_2_and_a_hint(sweep: Path) -> None:
    done = run("mxnet-1.9.1_y1_data_1n1g_b9", sweep)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"did you mean {make_case().case_id}?" in done.stderr


def test_a_part_that_several_cases_have_lists_them(sweep: Path) -> None:
    store_good_runs(sweep, make_case(batch_size_per_device=16), [10.0])
    done = run("mxnet", sweep)
    assert done.exit_code == 2
    assert "names 2 cases" in done.stderr
    assert make_case().case_id in done.stderr


@pytest.mark.usefixtures("sweep")
def test_the_case_of_two_sweeps_is_shown_for_each(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "again", make_case(), [20.0])
    text = run("mxnet", tmp_path).stdout
    assert text.count(make_case().case_id + "\n") == 2
    assert "20.00 (median of 1)" in text


def test_a_case_that_did_not_run_shows_why(tmp_path: Path) -> None:
    excluded = make_case(framework="pytorch", version="2.13.0")
    write_plan(tmp_path / "y1", [make_case()], others={PlanStatus.EXCLUDED: [(excluded, "no room")]})
    told = facts(run("pytorch", tmp_path).stdout + "\n\n", "figures")
    assert told == {"status": "not_measured", "reason": "excluded: no room"}


def test_what_cannot_be_read_is_named(sweep: Path) -> None:
    damaged = next((sweep / "runs").glob("*/r2/result.json"))
    damaged.write_text("{")
    done = run("mxnet", sweep)
    assert done.stderr == f"dlperf: skipped {damaged}: damaged: not the JSON of a result\n"
    assert facts(done.stdout, "figures")["samples/s"] == "10.00 (median of 1)"
