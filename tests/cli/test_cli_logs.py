"""`dlperf logs`: which logs are shown, and that --follow ends with the run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from run_folders import make_case, write_run

from dlperf.cli import main
from dlperf.plan.case import Topology
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

CASE = make_case()
TWO_NODES = make_case(topology=Topology(nodes=2, devices_per_node=2))
LIMIT_SECONDS = 60


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["logs", *map(str, arguments)])


def ranks_shown(result: Result) -> set[str]:
    assert 0 == result.exit_code, result.stderr
    return {line.split(" ", 1)[0] for line in result.stdout.splitlines()}


def test_raw_prints_one_rank_as_it_came(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", CASE, log="a\n\x1b[31mb\r c")
    assert "a\n\x1b[31mb\r c" == run(CASE.content_hash, tmp_path, "--raw").stdout
    shown = run(CASE.case_id, tmp_path / "y1", "--rank", "0", "--raw").stdout_bytes
    assert (folder / "logs/rank0.log").read_bytes() == shown


def test_steps_are_rows_of_a_table_and_other_lines_stay(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", CASE)
    log = folder / "logs/rank0.log"
    log.write_text(
        "loading\n" + log.read_text().replace('"loss": 40.0', '"loss": null, "loss_text": "nan"', 1) + "bye"
    )
    lines = run(CASE.content_hash, tmp_path).stdout.splitlines()
    assert ["loading", "bye"] == [lines[0], lines[-1]]
    assert ["step", "kind", "samples/s", "seconds", "loss", "time"] == lines[1].split()
    rows = [line.split() for line in lines[2:-1]]
    assert [
        ["0", "warmup"],
        ["1", "warmup"],
        ["2", "train"],
        ["3", "train"],
        ["4", "train"],
        ["5", "train"],
    ] == [row[:2] for row in rows]
    assert ["nan", "4.00"] == [rows[0][4], f"{float(rows[0][2]):.2f}"]
    assert max(map(len, lines)) < 60
    shown = run(CASE.content_hash, tmp_path, "--raw").stdout
    assert log.read_text() == shown


def test_a_step_that_is_torn_by_another_line_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", CASE)
    torn = ':::MLLOG {"namespace": "dlperf", "key": "tracked_st'
    (folder / "logs/rank0.log").write_text(torn + "\n")
    assert torn + "\n" == run(CASE.content_hash, tmp_path).stdout


def test_control_characters_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "y1", CASE)
    hostile = b"\x1b]0;title\x07 \x1b[2J\tcaf\xc3\xa9 \xc2\x9b31m \xff\xe2\x80\xae\r\n10%\r20%\r\n\xe2\x82"
    (folder / "logs/rank0.log").write_bytes(hostile)
    expected = "\\x1b]0;title\\x07 \\x1b[2J\tcafé \\x9b31m \\xff\\u202e\n10%\\r20%\n\\xe2\\x82\n"
    for block in (1 << 16, 1):  # a character or a line end may be cut by the end of a block
        monkeypatch.setattr("dlperf.cli.logs._BLOCK", block)
        assert expected == run(CASE.content_hash, tmp_path).stdout_bytes.decode()


def test_lines_of_several_ranks_begin_with_their_rank(tmp_path: Path) -> None:
    write_run(tmp_path / "y1", TWO_NODES)
    assert {"[rank0]", "[rank1]", "[rank2]", "[rank3]"} == ranks_shown(run("y1", tmp_path))
    assert {"[rank2]", "[rank3]"} == ranks_shown(run("y1", tmp_path, "--node", "1"))
    assert {"[rank0]", "[rank3]"} == ranks_shown(run("y1", tmp_path, "--rank", "0", "--rank", "3"))


def test_the_last_repeat_is_shown_unless_another_is_named(tmp_path: Path) -> None:
    for repeat in (2, 10):
        write_run(tmp_path / "y1", CASE, repeat=repeat, log=f"repeat {repeat}\n")
    assert "repeat 10\n" == run("y1", tmp_path).stdout
    assert "repeat 2\n" == run("y1", tmp_path, "--repeat", "2").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["y1", "--rank", "7"], "no log of rank 7; ranks with a log: 0"),
        (["y1", "--node", "3"], "no log of node 3; ranks with a log: 0"),
        (["y1", "--repeat", "9"], "no repeat 9; there is 1"),
        (["nothing"], "no run of a case named 'nothing'; `dlperf results` lists the cases"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_run(tmp_path / "y1", CASE)
    result = run(arguments[0], tmp_path, *arguments[1:])
    assert 2 == result.exit_code
    assert message in result.stderr


def test_what_is_no_repeat_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", CASE, log="one\n")
    for name in ("r\u00b2", "x7", "r"):
        folder.with_name(name).mkdir()
    assert "one\n" == run("y1", tmp_path).stdout


def test_a_name_of_several_cases_lists_them(tmp_path: Path) -> None:
    write_run(tmp_path / "y1", CASE)
    write_run(tmp_path / "y1", TWO_NODES)
    result = run("mxnet", tmp_path)
    assert 2 == result.exit_code
    assert sorted([CASE.case_id, TWO_NODES.case_id]) == sorted(result.stderr.split()[-2:])


def test_follow_goes_on_until_the_run_has_its_result(tmp_path: Path) -> None:
    """A run that is made anew on the way is shown from its beginning."""
    folder = write_run(tmp_path / "y1", CASE)
    log = folder / "logs/rank0.log"
    whole = log.read_text()
    begin, rest = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    log.write_text("of the first try, which is longer than the next begins\n" + begin)
    command = [sys.executable, "-m", "dlperf", "logs", "y1", str(tmp_path), "--follow", "--raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "100"}) as process:
        assert process.stdout is not None
        killer = threading.Timer(LIMIT_SECONDS, process.kill)
        killer.start()
        seen = process.stdout.read(log.stat().st_size).decode()
        assert log.read_text() == seen  # it shows what there is, and waits
        again = log.with_name("new")
        again.write_text(begin)
        again.rename(log)
        assert begin == process.stdout.read(len(begin)).decode()
        with log.open("a") as stream:
            stream.write(rest)
        store_run(folder)
        assert rest == process.stdout.read().decode()
        assert 0 == process.wait(LIMIT_SECONDS)
        killer.cancel()
