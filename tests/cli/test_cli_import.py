"""`dlperf import`: what it prints, what it asks, and its exit codes."""

# ruff: noqa: E501  messages are as long as they are

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from filelock import FileLock

from dlperf.cli import main
from dlperf.importing.case import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TOLD = ["--set", "version=0.3.4", "--set", "experiment=r100_emore", "--set", "parallelism=data"]
NEXT = "Next: dlperf report results/imported --out report.md\n"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The 2021 layout, with two repeats of two topologies, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for topology, rate in (("1n1g", 245.0), ("1n8g", 1830.0)):
        for repeat in (1, 2):
            path = tmp_path / f"logs/{topology}/r100_b64_fp32_{repeat}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(
                    f"train: iter {step}, loss 44.1, throughput: {rate + repeat + step / 1000:.3f}\n"
                    for step in range(150)
                )
            )
    return tmp_path / "logs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_a_tree_of_2021_becomes_results(logs: Path) -> None:
    result = run("import", logs, *TOLD)
    assert (0, NEXT) == (result.exit_code, result.stderr)
    assert 4 == len(result.stdout.splitlines())
    assert all(line.startswith("imported  ") for line in result.stdout.splitlines())
    cases = json.loads(run("results", "--format", "json").stdout)
    assert [("1n1g", 2), ("1n8g", 2)] == [(case["topology"], case["runs_ok"]) for case in cases]


def test_what_nobody_knows_of_a_run_is_shown_as_not_known(logs: Path) -> None:
    assert 0 == run("import", logs, *TOLD).exit_code
    cases = json.loads(run("results", "--format", "json").stdout)
    assert [(None, "data, measured_iterations, seed, threads_per_device")] * 2 == [
        (case["threads_per_device"], case["not_known"]) for case in cases
    ]
    shown = run("show", cases[0]["case_id"]).stdout
    assert "threads per device  not known" in " ".join(shown.split("\n")).replace("   ", "  ")
    assert "face_emore (data not known)" in shown
    assert "20 warm-up, measured: not known" in shown
    report = run("report", "results/imported").stdout
    assert "(synthetic)" not in report
    assert "face_emore (data not known)" in report
    assert "- threads per device: not known" in report
    assert "| threads per device | not known " in report


def test_a_compressed_log_that_stops_in_its_middle_is_imported_with_a_warning(logs: Path) -> None:
    path = logs / "1n1g/r100_b64_fp32_1.log"
    packed = gzip.compress(path.read_bytes())
    (logs / "1n1g/r100_b64_fp32_9.log.gz").write_bytes(packed[: len(packed) * 2 // 3])
    result = run("import", logs / "1n1g/r100_b64_fp32_9.log.gz", *TOLD)
    assert 0 == result.exit_code
    assert (
        f"dlperf: {logs}/1n1g/r100_b64_fp32_9.log.gz: the compressed data stops in its middle; read up to there\n{NEXT}"
        == result.stderr
    )


def test_both_methods_are_named_in_the_report_and_never_mixed(logs: Path) -> None:
    assert 0 == run("import", logs, *TOLD).exit_code
    assert 0 == run("import", logs, *TOLD, "--method", "dlperf-2021").exit_code
    report = run("report", "results/imported", "results/imported-dlperf-2021").stdout
    assert "dlperf-2021" in report
    assert "samples/seconds" in report
    cases = json.loads(run("results", "--format", "json").stdout)
    assert 4 == len(cases)


def test_again_is_unchanged(logs: Path) -> None:
    run("import", logs, *TOLD)
    again = run("import", logs, *TOLD)
    assert 0 == again.exit_code
    assert all(line.startswith("unchanged ") for line in again.stdout.splitlines())


def test_a_question_is_asked_once_for_all_files(logs: Path) -> None:
    result = run("import", logs, *TOLD[:4])
    assert (2, "") == (result.exit_code, result.stdout)
    assert [
        f"dlperf: {logs}/1n1g/r100_b64_fp32_1.log and 3 more: settings are missing; give them with --set, or per file with --map:",
        (
            "  --set parallelism=...  data, model or partial_fc; partial_fc also needs --set sample_ratio=... "
            "(share of the classes, such as 0.1)"
        ),
    ] == result.stderr.splitlines()


def test_everything_that_is_missing_of_any_log_is_asked_for_at_once(logs: Path) -> None:
    (logs / "train.log").write_text("train: iter 1, loss 44.1, throughput: 245.000\n")
    result = run("import", logs, "--set", "experiment=r100_emore")
    assert [
        f"dlperf: {logs}/train.log and 4 more: settings are missing; give them with --set, or per file with --map:",
        "  --set version=...                the framework's, such as 0.3.4",
        (
            "  --set parallelism=...            data, model or partial_fc; partial_fc also needs --set sample_ratio=... "
            "(share of the classes, such as 0.1)"
        ),
        f"  --set topology=...               nodes and devices per node, such as 1n8g [{logs}/train.log]",
        (
            "  --set device=...                 cuda or cpu; cpu also needs --set threads_per_device=... "
            f"(of a CPU, such as 8) [{logs}/train.log]"
        ),
        f"  --set batch_size_per_device=...  images per device [{logs}/train.log]",
        f"  --set precision=...              fp32, fp16 or bf16 [{logs}/train.log]",
    ] == result.stderr.splitlines()


def test_a_pattern_that_matches_nothing_is_named_even_where_its_log_cannot_be_read(
    logs: Path, tmp_path: Path
) -> None:
    (logs / "notes.txt").write_text("hello\n")
    (tmp_path / "which.yaml").write_text(
        '"*": {experiment: r100_emore, version: 0.3.4, parallelism: data}\n'
        '"notes.txt": {version: 0.3.5}\n"1n4g/*": {version: 0.3.5}\n'
    )
    result = run("import", logs, "--map", "which.yaml")
    assert 3 == result.exit_code
    assert [
        "dlperf: which.yaml:3: '1n4g/*' matches no log: neither its whole name nor its end",
        NEXT.rstrip(),
    ] == result.stderr.splitlines()[1:]


def test_a_mapping_file_speaks_of_single_files(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "which.yaml").write_text(
        '"*": {experiment: r100_emore, version: 0.3.4, parallelism: data}\n'
        '"1n8g/*": {parallelism: model, batch_size_per_device: 115}\n'
    )
    assert 0 == run("import", logs, "--map", "which.yaml").exit_code
    cases = json.loads(run("results", "--format", "json").stdout)
    assert [("data", 64), ("model", 115)] == [
        (case["parallelism"], case["batch_size_per_device"]) for case in cases
    ]


def test_a_wrong_mapping_file_is_answered_with_the_place(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "which.yaml").write_text('"*":\n  experment: r100_emore\n')
    result = run("import", logs, "--map", "which.yaml")
    assert 2 == result.exit_code
    assert "which.yaml:2:3: unknown key 'experment' (did you mean 'experiment'?)\n" == result.stderr


def test_a_value_of_a_mapping_file_is_never_taken_for_another(logs: Path, tmp_path: Path) -> None:
    """YAML's 1.10 is 1.1, and a list is no value."""
    (tmp_path / "which.yaml").write_text(
        '"*": {version: 1.10, parallelism: [data]}\n"1n1g/*": {version: "1.10"}\n'
    )
    result = run("import", logs, "--map", "which.yaml")
    assert [
        "which.yaml:1:16: version: YAML takes this for a number and drops a 0 at its end; write it in quotes",
        "which.yaml:1:35: parallelism: write one word or number",
    ] == result.stderr.splitlines()
    assert 2 == result.exit_code


@pytest.mark.parametrize("name", ["../elsewhere", "..", "/elsewhere"])
def test_the_name_of_the_folder_is_no_path(name: str, logs: Path) -> None:
    result = run("import", logs, *TOLD, "--name", name)
    assert 2 == result.exit_code
    assert f"--name {name}: is the name of one folder" in result.stderr


def test_what_an_import_that_was_killed_left_is_removed_unless_it_still_goes_on(
    logs: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "results/imported"
    (sweep / ".importing-left").mkdir(parents=True)
    with FileLock(sweep / ".import.lock"):
        result = run("import", logs, *TOLD)
        assert (2, "dlperf: results/imported: another import is running there; wait for its end\n") == (
            result.exit_code,
            result.stderr,
        )
        assert (sweep / ".importing-left").exists()
    assert 0 == run("import", logs, *TOLD).exit_code
    assert [".import.lock", "runs"] == sorted(path.name for path in sweep.iterdir())


def test_results_are_not_imported_as_logs(logs: Path) -> None:
    assert 0 == run("import", logs, *TOLD).exit_code
    result = run("import", "results/imported")
    assert (
        2,
        "dlperf: results/imported: results of dlperf already; `dlperf results results/imported` lists them\n",
    ) == (
        result.exit_code,
        result.stderr,
    )


def test_an_experiment_that_there_is_not_is_named_with_who_told_it(logs: Path) -> None:
    path = logs / "1n1g/r100_b64_fp32_1.log"
    result = run("import", path, *TOLD[:2], *TOLD[4:], "--set", "experiment=r100_emor")
    assert 2 == result.exit_code
    assert (
        f"dlperf: {path}: unknown experiment 'r100_emor' (did you mean 'r100_emore'?) (--set)\n"
        == result.stderr
    )


def test_bad_files_are_named_and_the_others_imported(logs: Path) -> None:
    (logs / "notes.txt").write_text("hello\n")
    (logs / "empty.log").write_text("")
    result = run("import", logs, *TOLD)
    assert 3 == result.exit_code
    assert 4 == len(result.stdout.splitlines())
    assert [
        f"dlperf: {logs}/empty.log: empty",
        f"dlperf: {logs}/notes.txt: no throughput record of a known program in 1 line; the first line is 'hello'",
        NEXT.rstrip(),
    ] == result.stderr.splitlines()


@pytest.mark.parametrize("setting", ["version", "=1", "version="])
def test_a_setting_that_is_none_is_a_usage_error(setting: str, logs: Path) -> None:
    result = run("import", logs, "--set", setting)
    assert 2 == result.exit_code
    assert f"--set {setting}: write KEY=VALUE" in result.stderr


def test_an_empty_folder_and_a_missing_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = run("import", "empty")
    assert (2, "dlperf: empty: no file in it\n") == (result.exit_code, result.stderr)
    result = run("import", "nothing.log")
    assert (2, "dlperf: nothing.log: cannot be read: No such file or directory\n") == (
        result.exit_code,
        result.stderr,
    )
    assert ["empty"] == [path.name for path in tmp_path.iterdir()]  # nothing came of it


def test_the_help_lists_every_key_that_can_be_told() -> None:
    text = run("import", "--help").stdout
    keys = re.search(r"mapping\s+file:\s+(framework,[\w\s,]+)\.", text)
    assert keys is not None
    assert list(KEYS) == re.split(r",\s+", keys[1])
    assert "  dlperf import logs/ --map which.yaml --method dlperf-2021\n" in text
