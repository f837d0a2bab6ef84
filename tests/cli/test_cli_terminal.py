"""What strangers wrote into logs, results and names controls no terminal: escape codes are visible."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.cli.terminal import Styled, print_json, table, visible
from dlperf.results.store import store_run

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\rok"
SHOWN = r"x\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\rok"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
CASE = make_case()


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results whose every free text is hostile, and one that cannot be read, in a folder with such a name."""
    folder = tmp_path / f"sweep-{HOSTILE}"
    store_good_runs(folder, CASE, [10.0, 11.0, 12.0, 13.0])
    store_run(write_run(folder, CASE, repeat=5, log="ValueError: wrong\n", outcome=failed("rank_failed")))
    for path in folder.glob("runs/*/r*/*.json"):
        content = json.loads(path.read_text())
        if path.name == "result.json":
            content["engine"]["facts"] |= {"build": HOSTILE, HOSTILE: "1"}
            content["nodes"] = [HOSTILE]
            if content["reason"]:
                content |= {"reason": HOSTILE, "evidence": HOSTILE}
        elif path.name == "environment.json":
            content["nodes"][0] |= {"host": HOSTILE, "system": HOSTILE}
            content["variables"] = {"LANG": HOSTILE}
        path.write_text(json.dumps(content))
    launch = {"ranks": [{"rank": 0, "argv": ["python", HOSTILE]}]}
    next(folder.glob("runs/*/r1")).joinpath("launch.json").write_text(json.dumps(launch))
    damaged = write_run(folder, make_case(batch_size_per_device=2))
    (damaged / "result.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("results",),
        ("show", CASE.content_hash),
        ("explain", CASE.content_hash),
        ("history", CASE.content_hash),
        ("baseline", "save", "nightly"),
        ("report",),
        ("logs", HOSTILE),
        ("plan", HOSTILE),
        ("show", CASE.content_hash, "--json"),
    ],
    ids=lambda words: words[0],
)
def test_no_command_prints_a_control_character(sweep: Path, words: tuple[str, ...]) -> None:
    folders = [] if words[0] == "plan" else [str(sweep)]
    done = CliRunner().invoke(main, [*words, *folders])
    assert done.stdout + done.stderr
    assert not CONTROLS.search(done.stdout + done.stderr)


def test_text_from_a_run_is_shown_with_its_escape_codes_visible(sweep: Path) -> None:
    shown = CliRunner().invoke(main, ["show", CASE.content_hash, str(sweep)]).stdout
    assert re.search(f"^  reason +{re.escape(SHOWN)}$", shown, re.MULTILINE)
    assert f"  {SHOWN} " in shown  # the name of a fact too


def test_unrecognised_lines_of_a_log_are_visible(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"{HOSTILE}\ntrain: iter 1, loss 44.1, throughput: 12.5\n")
    done = CliRunner().invoke(main, ["parse", str(log), "--unrecognised"])
    assert "iter" in done.stdout
    assert not CONTROLS.search(done.stdout)


def test_ordinary_text_stays_as_it_is() -> None:
    assert visible("café\t→ 12 %\n\U0001f600") == "café\t→ 12 %\n\U0001f600"
    assert visible("caf\udce9") == r"caf\udce9"  # half of a character, of a file name that is no UTF-8
    assert visible(Styled("\x1b[1mours\x1b[0m")) == "\x1b[1mours\x1b[0m"


def test_a_cell_is_one_line() -> None:
    assert table(("case", "reason"), [("a", "first\nb  ok")]).splitlines() == [
        "case  reason",
        r"a     first\nb  ok",
    ]


def test_a_narrow_terminal_wraps_sentences_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    path = "results/tiny/runs/" + "x" * 70 + "/r1/logs/rank0.log:12:"
    text = table(
        ("case", "reason", "evidence"), [("a" * 50, "other work took it " * 3, f"{path} ValueError")]
    )
    assert path in text
    assert "…" not in text
    assert "other work took it other work\n" not in text


ROWS = [
    ("mxnet 1.9.1", "data", "1n1g", "ok", "31.20", ""),
    ("oneflow 0.9.0", "data", "1n2g", "unavailable", "", "needs 4 CPU cores; this machine has 2"),
]
HEADINGS = ("framework", "parallelism", "topology", "status", "samples/s", "reason")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            120,
            """\
framework      parallelism  topology  status       samples/s  reason
mxnet 1.9.1    data         1n1g      ok               31.20
oneflow 0.9.0  data         1n2g      unavailable             needs 4 CPU cores; this machine has 2""",
        ),
        (
            80,
            """\
every row: parallelism data

framework      topology  status       samples/s  reason
mxnet 1.9.1    1n1g      ok               31.20
oneflow 0.9.0  1n2g      unavailable             needs 4 CPU cores; this machine
                                                 has 2""",
        ),
        (
            60,
            """\
every row: parallelism data

mxnet 1.9.1
  topology   1n1g
  status     ok
  samples/s  31.20

oneflow 0.9.0
  topology   1n2g
  status     unavailable
  reason     needs 4 CPU cores; this machine has 2""",
        ),
    ],
)
def test_a_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, expected: str) -> None:
    """What all rows share stands above where the width is not enough, and then rows become blocks."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    text = table(HEADINGS, ROWS, right=("samples/s",))
    plain = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert expected.splitlines() == plain
    assert max(map(len, plain)) <= columns


def test_a_status_has_the_colour_of_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = table(("case", "status"), [("a", "ok"), ("b", "oom"), ("c", "disturbed")])
    assert ["32", "31", "33"] == re.findall(r"\x1b\[(\d+)m(?:ok|oom|disturbed)", text)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[3\dm", table(("case", "status"), [("a", "ok")]))


def test_a_file_has_whole_cells_however_long() -> None:
    reason = "word " * 200 + "end"
    assert table(("case", "reason"), [("a", reason)]).splitlines()[1] == f"a     {reason}"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"reason": HOSTILE})
    text = capsys.readouterr().out
    assert not CONTROLS.search(text)
    assert json.loads(text) == {"reason": HOSTILE}
