"""`dlperf parse`: what it prints, and what it says about files that are no logs."""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from dlperf.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

ONEFLOW = "hello\ntrain: iter 0, loss nan, throughput: 12.500\ntrain: iter 1, loss 44.0, throughput: 12.750\n"
OOM = "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB"


def parse(*arguments: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["parse", *map(str, arguments)], input=data)


def test_json_holds_dialect_records_and_failure(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(ONEFLOW + OOM + "\n")
    result = parse(log, "--format", "json")
    assert 0 == result.exit_code
    nothing = {"epoch": None, "rank": None, "lr": None, "time": None}
    assert {
        "file": str(log),
        "dialect": "oneflow_face",
        "records": [
            {
                "run": 0,
                "line": 2,
                "iteration": 0,
                "samples_per_sec": 12.5,
                "loss": None,
                "loss_text": "nan",
                **nothing,
            },
            {"run": 0, "line": 3, "iteration": 1, "samples_per_sec": 12.75, "loss": 44.0, **nothing},
        ],
        "failure": {"kind": "oom", "evidence": OOM, "file": str(log), "line": 4},
    } == json.loads(result.stdout)


def test_json_for_short_is_the_same(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(ONEFLOW)
    assert parse(log, "--format", "json").stdout == parse(log, "--json").stdout


def test_json_of_what_is_no_log_is_an_object_without_records(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("hello\n")
    result = parse(log, "--json")
    assert 2 == result.exit_code
    assert {"file": str(log), "dialect": None, "records": [], "failure": None} == json.loads(result.stdout)


def test_json_of_several_logs_is_one_object_a_line(tmp_path: Path) -> None:
    paths = [tmp_path / "a.log", tmp_path / "b.log"]
    for path in paths:
        path.write_text(ONEFLOW)
    result = parse(*paths, "--format", "json")
    assert [str(path) for path in paths] == [json.loads(line)["file"] for line in result.stdout.splitlines()]


def test_csv_has_one_table_for_all_logs(tmp_path: Path) -> None:
    log, out = tmp_path / "a.log.gz", tmp_path / "out.csv"
    log.write_bytes(gzip.compress(ONEFLOW.encode()))
    assert 0 == parse(log, "--format", "csv", "-o", out).exit_code
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [("0", "nan", ""), ("1", "44.0", "")] == [
        (row["iteration"], row["loss"], row["lr"]) for row in rows
    ]


def test_a_log_is_never_overwritten_and_a_folder_is_made(tmp_path: Path) -> None:
    log, link = tmp_path / "a.log", tmp_path / "b.log"
    log.write_text(ONEFLOW)
    link.hardlink_to(log)
    for same in (log, link):
        result = parse(log, "-o", same)
        assert (2, f"dlperf: {same}: is one of the logs; write to another file\n") == (
            result.exit_code,
            result.stderr,
        )
    assert ONEFLOW == log.read_text()
    assert 0 == parse(log, "--json", "-o", tmp_path / "new/a.json").exit_code
    assert parse(log, "--json").stdout == (tmp_path / "new/a.json").read_text()


def test_the_table_is_for_people(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(ONEFLOW + OOM + "\n")
    lines = parse(log, "--unrecognised").stdout.splitlines()
    assert [
        f"{log}:1: hello",
        f"{log}:4: {OOM}",
    ] == [line for line in lines if line.startswith(f"{log}:") and "oneflow_face" not in line]
    assert f"{log}: oneflow_face, the whole job's rate" in lines
    assert ["0", "2", "0", "12.5", "nan"] in [line.split() for line in lines]
    assert [
        "run 0: 2 records, mean 12.62, median 12.62 samples/s (a steady rate takes 60 records)",
        f"failure: oom: {log}:4: {OOM}",
    ] == lines[-2:]


def test_the_table_ends_with_what_each_run_comes_to(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    rates = [100.0] * 30 + [200.0] * 50 + [1.0] + [202.0] * 50
    run = "".join(
        f"train: iter {step}, loss 1.0, throughput: {rate:.3f}\n" for step, rate in enumerate(rates)
    )
    log.write_text(run + "train: iter 0, loss 1.0, throughput: inf\n")
    assert [
        "run 0: 131 records, mean 176.34, median 200.00, steady 201.00 samples/s from record 31 on",
        "run 1: 1 record, none with a rate",
    ] == parse(log).stdout.splitlines()[-2:]


def test_the_table_shows_times_as_text_and_only_the_columns_that_the_log_has(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("2024-05-01 10:00:00,250 train: iter 0, loss 1.0, throughput: 12.500\n")
    _name, headings, row, _summary = parse(log).stdout.splitlines()
    assert ["run", "line", "iteration", "samples/s", "loss", "time"] == headings.split()
    assert ["0", "1", "0", "12.5", "1", "2024-05-01", "10:00:00.250"] == row.split()


def test_json_shows_unrecognised_lines_on_request(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(ONEFLOW + "\n" + "bye")
    result = json.loads(parse(log, "--unrecognised", "--format", "json").stdout)
    assert [{"line": 1, "text": "hello"}, {"line": 5, "text": "bye"}] == result["unrecognised"]


def test_the_exit_code_tells_more_about_a_failure(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(ONEFLOW)
    failure = json.loads(parse(log, "--format", "json", "--exit-code", "137").stdout)["failure"]
    assert ("killed", "rank 0 was ended by SIGKILL") == (failure["kind"], failure["evidence"])


def test_a_log_that_failed_before_its_first_record_still_shows_why(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("starting\n" + OOM + "\n")
    result = parse(log, "--format", "json", "--dialect", "oneflow_face")
    assert 0 == result.exit_code
    content = json.loads(result.stdout)
    assert (None, [], "oom") == (content["dialect"], content["records"], content["failure"]["kind"])


def test_files_that_are_no_logs_are_named_and_the_others_parsed(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.log", tmp_path / "bad.log"
    good.write_text(ONEFLOW)
    bad.write_text("")
    result = parse(bad, good, tmp_path / "none.log", "--format", "json")
    assert 3 == result.exit_code
    assert [0, 2] == [len(json.loads(line)["records"]) for line in result.stdout.splitlines()]
    assert [
        f"dlperf: {bad}: empty",
        f"dlperf: {tmp_path / 'none.log'}: cannot be read: No such file or directory",
    ] == result.stderr.splitlines()


def test_nothing_usable_is_exit_code_2(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("hello\n")
    for form in ("table", "json", "csv"):
        assert 2 == parse(log, "--format", form).exit_code
    assert 2 == parse(log, "--dialect", "nonsense").exit_code


def test_standard_input_is_a_file_too() -> None:
    result = parse("-", "--format", "json", data=ONEFLOW.encode())
    assert ("<stdin>", 2) == (json.loads(result.stdout)["file"], len(json.loads(result.stdout)["records"]))
