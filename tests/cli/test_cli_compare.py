"""`dlperf compare` and `dlperf baseline` as a person or a CI job meets them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from plans import write_plan
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

RATES = [100.0, 100.2, 99.8, 100.1, 99.9]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_sweep(folder: Path, *factors: tuple[str, float]) -> Path:
    """An interleaved sweep of one cell: a version each, so many times as fast as `RATES`."""
    cases = [make_case(version=version) for version, _ in factors]
    folder.mkdir(parents=True)
    write_plan(folder, cases, repeats=5)
    for case, (_, factor) in zip(cases, factors, strict=True):
        store_good_runs(folder, case, [factor * rate for rate in RATES])
    return folder


def test_two_folders(tmp_path: Path) -> None:
    before = make_sweep(tmp_path / "monday", ("1.9.1", 1.0))
    after = make_sweep(tmp_path / "friday", ("1.9.1", 0.9))
    done = run("compare", before, after)
    assert done.exit_code == 4, done.output
    assert done.stdout.splitlines()[-1] == (
        "no verdict: the runs do not tell; run both sides in turns (`dlperf gate`) or measure the noise "
        "(`dlperf qualify` on two days)"
    )
    assert "measured in different sessions" in done.stdout
    assert "not run in common blocks" in done.stdout


def test_a_sweep_that_went_on_the_next_day_holds_two_sessions(tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    cases = [make_case(version=version) for version in ("1.9.0", "1.9.1")]
    for case, hour in zip(cases, ("02T10:00:00Z", "02T10:30:00Z"), strict=True):
        store_good_runs(folder, case, RATES, outcome={"started_at": f"2026-01-{hour}"})
    arguments = ("framework=mxnet==1.9.0", "framework=mxnet==1.9.1", "--in", folder, "--format", "json")

    def speed() -> dict[str, Any]:
        return next(
            row
            for row in json.loads(run("compare", *arguments).stdout)["findings"]
            if row["metric"] == "samples_per_sec"
        )

    assert (speed()["verdict"], speed()["blocked"]) == ("same", False)
    for result in (folder / "runs" / cases[1].case_id).glob("r*/result.json"):
        content = json.loads(result.read_text())
        content["figures"]["samples_per_sec"] *= 0.85
        result.write_text(json.dumps(content))
    assert speed()["verdict"] == "slower"
    for result in (folder / "runs" / cases[1].case_id).glob("r*/result.json"):
        result.write_text(result.read_text().replace("2026-01-02T10:30:00Z", "2026-01-03T10:30:00Z"))
    assert (speed()["verdict"], "different sessions" in speed()["reason"]) == ("inconclusive", True)
    for result in (folder / "runs" / cases[1].case_id).glob("r*/result.json"):
        result.write_text(result.read_text().replace("2026-01-03T10:30:00Z", "yesterday"))
    assert speed()["verdict"] == "inconclusive"


def test_two_folders_where_the_noise_between_sessions_was_measured(tmp_path: Path) -> None:
    for day in ("05", "06", "07", "08"):
        began = {"started_at": f"2026-01-{day}T10:00:00Z"}
        store_good_runs(tmp_path / f"aa-{day}", make_case(), [*RATES, *RATES], outcome=began)
        assert run("qualify", tmp_path / f"aa-{day}").exit_code == 0
    before = make_sweep(tmp_path / "monday", ("1.9.1", 1.0))
    done = run("compare", before, make_sweep(tmp_path / "friday", ("1.9.1", 0.9)))
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "2 regressions")


def test_two_versions_inside_one_folder_are_compared_in_blocks(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "both", ("1.9.0", 1.0), ("1.9.1", 1.0))
    arguments = ("framework=mxnet==1.9.0", "framework=mxnet==1.9.1", "--in", folder)
    content = json.loads(run("compare", *arguments, "--format", "json").stdout)
    assert [row["verdict"] for row in content["findings"]] == ["same"] * 3
    assert {row["blocked"] for row in content["findings"]} == {True}


def test_a_saved_baseline_stands_for_its_folder(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "both", ("1.9.0", 1.0), ("1.9.1", 0.9))
    saved = run("baseline", "save", "release", folder, "--only", "framework=mxnet==1.9.0")
    assert (saved.exit_code, saved.stdout) == (0, "baselines/release.json\n")
    assert run("compare", "release", "framework=mxnet==1.9.0", "--in", folder).exit_code == 0
    assert run("compare", "release", "framework=mxnet==1.9.1", "--in", folder).exit_code == 1
    assert run("compare", "baselines/release.json", folder).exit_code == 0  # each version meets itself
    assert run("baseline", "list").stdout == "release  2026-01-02, 1 case, 5 runs, dlperf 0.1.0\n"


def test_a_baseline_is_shown_as_a_table_that_fits_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("baseline", "save", "release", make_sweep(tmp_path / "both", ("1.9.0", 1.0), ("1.9.1", 0.9)))
    shown = run("baseline", "show", "release").stdout
    assert "release  2026-01-02, 2 cases, 10 runs, dlperf 0.1.0\nevery case: status ok, hardware " in shown
    assert re.search(r"^framework +case +samples/s +runs$", shown, re.MULTILINE)
    assert re.search(r"^mxnet 1\.9\.0 +y1 data 1n1g b8 c100 fp32 +100\.00 +5$", shown, re.MULTILINE)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "50"}.items():
        monkeypatch.setenv(name, value)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", run("baseline", "show", "release").stdout)
    _, table = plain.split("every row: ")
    assert max(map(len, table.splitlines())) <= 50


def test_where_there_is_no_baseline_the_list_says_how_one_is_made() -> None:
    listed = run("baseline", "list")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "no baselines in baselines; create one: dlperf baseline save NAME RESULTS" in listed.stderr


def test_a_baseline_is_not_overwritten_unasked(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "one", ("1.9.1", 1.0))
    assert run("baseline", "save", "x", folder).exit_code == 0
    again = run("baseline", "save", "x", folder)
    assert (again.exit_code, "--replace" in again.stderr) == (2, True)
    assert run("baseline", "save", "x", folder, "--replace").exit_code == 0


def test_every_form_of_output_at_once(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "both", ("1.9.0", 1.0), ("1.9.1", 0.9))
    forms = [
        word for form in ("md", "pr", "json", "junit", "github") for word in ("--write", f"{form}=out/{form}")
    ]
    done = run("compare", "framework=mxnet==1.9.0", "framework=mxnet==1.9.1", "--in", folder, *forms)
    assert done.exit_code == 1
    starts = {path.name: path.read_text().split(" ")[0] for path in (tmp_path / "out").iterdir()}
    assert starts == {
        "md": "**dlperf:", "pr": "**dlperf:", "json": "{\n", "junit": "<?xml", "github": "::error",
    }  # fmt: skip


def test_a_file_that_cannot_be_written_is_named_behind_the_answer(tmp_path: Path) -> None:
    make_sweep(tmp_path / "both", ("1.9.1", 1.0))
    (tmp_path / "file").touch()
    done = run("compare", "both", "both", "--write", "md=file/summary.md")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (2, "no regression")
    assert done.stderr == "dlperf: --write md=file/summary.md: cannot be written (file: File exists)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "both"), "no baseline in baselines (known: none)"),
        (
            ("framework=mxnet==2", "framework=mxnet==1.9.1"),
            "selects none of the 2 cases there (frameworks: mxnet==1.9.0",
        ),
        (("frame=x", "both"), "unknown key 'frame'"),
        (("both", "both", "--margin", "lots"), "--margin lots: write a percentage"),
        (("both", "both", "--margin", "samples=1%"), "unknown metric 'samples'"),
        (("both", "both", "--write", "html=x"), "write FORMAT=FILE with one of text, md"),
        (("both", "both", "--write", "md=x", "--write", "pr=x"), "x is written as md already; name another"),
        (("both", "both", "--write", "md=both"), "--write md=both: both is a folder; name a file"),
        (("both", "both", "--expected", "x.yaml"), "x.yaml: no such file of expected failures"),
        (
            ("both", "both", "--qualified", "x.json"),
            "x.json: No such file or directory; `dlperf qualify SWEEP`",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    make_sweep(tmp_path / "both", ("1.9.0", 1.0), ("1.9.1", 1.0))
    done = run("compare", *arguments, "--in", "both")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_no_common_case_is_no_all_clear(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a", ("1.9.1", 1.0))
    other = make_case(framework="oneflow", version="0.9.0")
    store_good_runs(tmp_path / "b", other, RATES)
    done = run("compare", "a", "b")
    assert done.exit_code == 3
    assert done.stdout.splitlines()[-1] == "no verdict: the runs do not tell"
    assert "without a baseline: oneflow 0.9.0" in done.stdout


def test_a_candidate_that_ran_out_of_memory_is_missing(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a", ("1.9.1", 1.0))
    log = "RuntimeError: out of memory\n"
    store_run(write_run(tmp_path / "b", make_case(), log=log, outcome=failed("rank_failed")))
    done = run("compare", "a", "b")
    assert done.exit_code == 3
    assert "missing" in done.stdout
    assert "oom" in done.stdout


def test_a_damaged_result_ends_the_comparison(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "a", ("1.9.1", 1.0))
    next((folder / "runs").glob("*/r1/result.json")).write_text("{")
    done = run("compare", "a", "a")
    assert done.exit_code == 2
    assert "damaged: not the JSON of a result" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 2}', "schema version 2; this dlperf reads up to 1: use a newer dlperf"),
        ('{"schema_version": 1}', "no baseline: label: Field required"),
        ("{", "no baseline: not JSON"),
    ],
)
def test_a_baseline_of_a_newer_dlperf_or_a_damaged_one_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    make_sweep(tmp_path / "a", ("1.9.1", 1.0))
    (tmp_path / "newer.json").write_text(content)
    done = run("compare", "newer.json", "a")
    assert (done.exit_code, message in done.stderr) == (2, True)


def test_one_case_of_two_sweeps_is_ambiguous_and_said(tmp_path: Path) -> None:
    make_sweep(tmp_path / "r" / "a", ("1.9.1", 1.0))
    make_sweep(tmp_path / "r" / "b", ("1.9.1", 1.0))
    done = run("compare", "r", "r/a")
    assert (done.exit_code, "1 case stands there more than once" in done.stderr) == (2, True)


def test_a_selector_against_a_folder_matches_the_same_case_among_others(tmp_path: Path) -> None:
    for folder in ("monday", "friday"):
        cases = [make_case(batch_size_per_device=batch) for batch in (4, 8)]
        (tmp_path / folder).mkdir()
        write_plan(tmp_path / folder, cases, repeats=5)
        for case in cases:
            store_good_runs(tmp_path / folder, case, RATES)
    done = run("compare", "batch_size_per_device=4", "friday", "--in", "monday")
    assert done.exit_code == 0, done.output
    assert "1 case compared by samples/s: 1 same, 1 without a baseline" in done.stdout


@pytest.fixture
def two_folders(tmp_path: Path) -> None:
    """Two cases in common, and one of each side alone."""
    for folder, batches in (("monday", (4, 8, 16)), ("friday", (4, 8, 32))):
        cases = [make_case(batch_size_per_device=batch) for batch in batches]
        (tmp_path / folder).mkdir()
        write_plan(tmp_path / folder, cases, repeats=5)
        for case in cases:
            store_good_runs(tmp_path / folder, case, RATES)


@pytest.mark.usefixtures("two_folders")
def test_cases_of_one_side_alone_are_left_out_when_asked() -> None:
    both = run("compare", "monday", "friday")
    assert (3, True) == (both.exit_code, "1 missing" in both.stdout)
    common = run("compare", "monday", "friday", "--common")
    assert 0 == common.exit_code, common.output
    assert "2 cases compared by samples/s: 2 same" in common.stdout
    assert (
        "note: left out, as one side alone has them: 1 of the baseline, 1 of the candidate" in common.stdout
    )


@pytest.mark.usefixtures("two_folders")
@pytest.mark.parametrize(
    "words",
    [
        ("-k", "batch_size_per_device==8"),
        ("--only", "batch_size_per_device=8"),
        ("--exclude", "batch_size_per_device=4,16,32"),
    ],
)
def test_cases_are_selected_as_those_of_a_sweep(words: tuple[str, str]) -> None:
    done = run("compare", "monday", "friday", *words)
    assert 0 == done.exit_code, done.output
    assert "1 case compared by samples/s: 1 same" in done.stdout


@pytest.mark.usefixtures("two_folders")
def test_a_selection_of_nothing_is_an_error() -> None:
    done = run("compare", "monday", "friday", "--only", "framework=pytorch")
    assert (2, "") == (done.exit_code, done.stdout)
    assert "dlperf: nothing selected: none of the 3 cases of monday matches\n" == done.stderr


def test_published_figures_are_a_side_and_have_no_runs_to_judge() -> None:
    name = "published:insightface_v100_2021"
    done = run("compare", name, name, "--strict")
    assert done.exit_code == 4
    assert "1 and 1 good runs; a verdict takes 4 on each side" in done.stdout


def test_a_baseline_without_a_case_is_no_all_clear(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a", ("1.9.1", 1.0))
    run("baseline", "save", "x", "a")
    saved = json.loads((tmp_path / "baselines" / "x.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps(saved | {"cases": []}))
    done = run("compare", "none.json", "a")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (3, "no verdict: the runs do not tell")
