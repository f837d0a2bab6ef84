"""`dlperf show CASE --telemetry`: the same curves as text and as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from real_terminal import needs_tmux, terminal_in
from run_folders import log_text, make_case, telemetry_text, timed, write_run

from dlperf.cli import main
from dlperf.cli.telemetry import sparkline
from dlperf.plan.case import Measure
from dlperf.results.store import store_run

CASE = make_case(device="cuda", measure=Measure(warmup_iterations=2, measured_iterations=8))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["show", CASE.content_hash, *map(str, arguments)])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs; the GPU of the second slows down in the middle of the measured window."""
    for repeat in (1, 2):
        folder = write_run(
            tmp_path / "y1", CASE, repeat=repeat, log=timed(log_text(CASE, seconds=[1.0] * 10))
        )
        rows = [
            {"at": number / 2, "source": "gpu0", "sm_mhz": 1095 if repeat == 2 and number > 12 else 1410}
            for number in range(21)
        ]
        (folder / "telemetry.csv").write_text(telemetry_text(rows))
        store_run(folder)
    return tmp_path / "y1"


def test_a_line_per_curve_and_where_it_was_measured(sweep: Path) -> None:
    lines = run(sweep, "--telemetry", "--run", 2).stdout.splitlines()
    assert lines[0] == "run 2: 10.0 s sampled, measured from second 2.0 to 10.0"
    sm, clock, source, bars, span = lines[1].split(maxsplit=4)
    assert (sm, clock, source) == ("SM", "clock", "gpu0")
    assert bars[0] == "█"
    assert bars[-1] == "▁"
    assert span == "1095 to 1410 MHz"
    assert lines[2].strip().startswith("└─")


def test_all_runs_are_shown_unless_one_is_named(sweep: Path) -> None:
    assert [line for line in run(sweep, "--telemetry").stdout.splitlines() if line.startswith("run ")] == [
        "run 1: 10.0 s sampled, measured from second 2.0 to 10.0",
        "run 2: 10.0 s sampled, measured from second 2.0 to 10.0",
    ]


@needs_tmux
@pytest.mark.parametrize("width", [60, 120])
def test_it_is_as_wide_as_the_terminal(sweep: Path, width: int) -> None:
    words = ["show", CASE.content_hash, str(sweep), "--telemetry", "--run", "2"]
    with terminal_in(sweep) as terminal:
        terminal.start(sys.executable, "-m", "dlperf", *words, columns=width)
        terminal.until_end()
        assert width - 1 <= max(map(len, terminal.screen())) <= width


@pytest.mark.parametrize(("name", "magic"), [("t.png", b"\x89PNG"), ("deep/t.svg", b"<?xml")])
def test_a_picture_is_written_by_its_name(sweep: Path, tmp_path: Path, name: str, magic: bytes) -> None:
    assert run(sweep, "--telemetry", "--run", 2, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_mistakes_are_named(sweep: Path, tmp_path: Path) -> None:
    assert "a picture is a .svg or a .png file" in run(sweep, "--telemetry", "-o", tmp_path / "t.gif").stderr
    assert "--run and --out go with --telemetry" in run(sweep, "--run", 1).stderr
    assert "no run 3 with telemetry" in run(sweep, "--telemetry", "--run", 3).stderr
    for path in sweep.glob("runs/*/*/telemetry.csv"):
        path.unlink()
    assert "no run with telemetry" in run(sweep, "--telemetry").stderr


@given(
    curve=st.lists(st.tuples(st.floats(-10, 1e4), st.floats(0, 1e9)), min_size=1),
    seconds=st.floats(0, 1e4),
    width=st.integers(1, 200),
)
def test_bars_fit_whatever_the_samples_are(
    curve: list[tuple[float, float]], seconds: float, width: int
) -> None:
    values = [value for _, value in curve]
    extremes = (min(values), max(values))
    shown = sparkline(curve, seconds=seconds, width=width, extremes=extremes)
    assert len(shown) == width
    assert set(shown) <= set(" ▁▂▃▄▅▆▇█")
