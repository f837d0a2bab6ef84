"""`dlperf explain`: lines, window, what was left out, formula, environment, evidence, from the logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from run_folders import failed, make_case, write_run

from dlperf.cli import main
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path


def explain(*arguments: object) -> dict[str, dict[str, str]]:
    """Facts by section, as JSON has them."""
    result = CliRunner().invoke(main, ["explain", *map(str, arguments), "--format", "json"])
    assert 0 == result.exit_code, result.stderr
    return {section["title"]: dict(map(tuple, section["facts"])) for section in json.loads(result.stdout)}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    store_run(write_run(folder, make_case(), seconds=(2.0, 1.0, 1.0, 1.5, 1.0, 1.0)))
    bad = write_run(
        folder,
        make_case(),
        repeat=2,
        log="hello\nTraceback (most recent call last):\n  File x\nValueError: wrong\n",
        outcome=failed("rank_failed"),
    )
    store_run(bad)
    return folder


def test_a_good_run_shows_its_window_and_its_arithmetic(sweep: Path) -> None:
    run = explain(make_case().content_hash, sweep)["run 1"]
    log = (sweep / f"runs/{make_case().case_id}/r1/logs/rank0.log").read_text().splitlines()
    first, last = (
        1 + next(number for number, line in enumerate(log) if f'"step": {step}' in line) for step in (2, 5)
    )
    assert f"4 records: steps 2 to 5, lines {first} to {last}" == run["used"]
    assert f"2 records: steps 0 to 1, lines {first - 2} to {first - 1}: warm-up" == run["left out"]
    assert "samples / seconds = 32 / 4.500000 = 7.1111 samples/s" == run["formula"]
    assert run["node node-a"].startswith("Example CPU 3000, 8 cores, 16 GiB")
    assert "name mxnet, threads 2, version 1.9.1" == run["engine"]


def test_a_failed_run_shows_its_evidence(sweep: Path) -> None:
    sections = explain(make_case().content_hash, sweep)
    assert "crash" == sections["run 2"]["status"]
    assert "logs/rank0.log:4: ValueError: wrong" == sections["run 2"]["evidence"]
    assert "no record" == sections["run 2"]["used"]
    assert "median of 1 run (7.11) = 7.11 samples/s" == sections[make_case().case_id]["figure"]
    assert "run 2: crash" == sections[make_case().case_id]["not counted"]


def test_a_log_that_was_changed_is_found_out(sweep: Path) -> None:
    log = sweep / f"runs/{make_case().case_id}/r1/logs/rank0.log"
    log.write_text(log.read_text().replace('"seconds": 1.5', '"seconds": 1.4'))
    assert (
        "result.json says 7.1111 samples/s, the log now gives 7.2727"
        == explain("y1", sweep)["run 1"]["changed"]
    )


def test_a_log_that_is_gone_is_said_and_not_raised(sweep: Path) -> None:
    (sweep / f"runs/{make_case().case_id}/r1/case.json").unlink()
    assert explain("y1", sweep)["run 1"]["log"].startswith("cannot be read again: ")


def test_a_result_that_cannot_be_read_is_named(sweep: Path) -> None:
    (sweep / f"runs/{make_case().case_id}/r2/result.json").write_text("{")
    result = CliRunner().invoke(main, ["explain", "y1", str(sweep)])
    assert 0 == result.exit_code
    assert "r2/result.json: damaged: not the JSON of a result" in result.stderr


def test_an_imported_run_shows_where_it_comes_from_and_the_methods_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "1n1g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text("".join(f"train: iter {step}, loss 44.1, throughput: 12.500\n" for step in range(150)))
    told = ["--set", "version=0.3.4", "--set", "experiment=r100_emore", "--set", "parallelism=data"]
    arguments = ["import", "1n1g/r100_b64_fp32_1.log", *told, "--method", "dlperf-2021"]
    assert 0 == CliRunner().invoke(main, arguments).exit_code
    run = explain("oneflow")["run 1"]
    assert run["imported from"].startswith("1n1g/r100_b64_fp32_1.log, run 1, lines 1 to 150, sha256 ")
    assert "of the lines with iter > 5, the 20th to the 120th" == run["rule"]
    assert "101 records: steps 25 to 125, lines 30 to 130" == run["used"]
    assert "24 records: steps 126 to 149, lines 131 to 154: outside the method's window" == run["left out"]
    assert "mean of rates, rounded to 2 decimals, of 101 rates = 12.50 samples/s" == run["formula"]
    assert ("logs/rank0.log", "logs/imported.log") == (run["log"], run["original"])


def test_a_published_case_has_a_figure_and_no_run() -> None:
    (case,) = explain(_published_case(), "published:insightface_v100_2021").values()
    assert "245.00 samples/s, as published" == case["figure"]


def _published_case() -> str:
    from dlperf.results.published import load_published  # noqa: PLC0415

    figures = load_published("insightface_v100_2021").figures
    (found,) = [
        figure.case.case_id
        for figure in figures
        if figure.summary is not None and figure.summary.median == 245.0
    ]
    return found


def test_the_text_is_for_people(sweep: Path) -> None:
    result: Result = CliRunner().invoke(main, ["explain", "y1", str(sweep)])
    assert 0 == result.exit_code
    blocks = result.stdout.split("\n\n")
    assert [make_case().case_id, "run 1", "run 2"] == [block.splitlines()[0] for block in blocks]
    assert "  rule           all steps behind the warm-up iterations of the case" not in blocks[0]
    assert any(line.split("  ")[1] == "rule" for line in blocks[1].splitlines()[1:])
