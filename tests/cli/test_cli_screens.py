"""What a person sees in a real terminal: widths of 60, 80 and 120 columns."""

# ruff: noqa: E501 - a line of a screen is one line

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt install tmux)"),
]


class Terminal:
    """A terminal of tmux in which one command runs."""

    def __init__(self, server: str) -> None:
        self._tmux = ["tmux", "-L", server, "-f", "/dev/null"]

    def start(self, *command: str, columns: int) -> None:
        """Run it in a new window; the window stays when it has ended."""
        size = ["-x", str(columns), "-y", "45"]
        self.ask("new-session", "-d", *size, *command, ";", "set-option", "-w", "remain-on-exit", "on")

    def ask(self, *words: str) -> str:
        """What a command of tmux prints."""
        done = subprocess.run([*self._tmux, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> list[str]:
        """The lines that were printed, without what tmux says at the end and the empty ones before it."""
        text = self.ask("capture-pane", "-p", "-S", "-").partition("Pane is dead")[0]
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(f"dlperf-{uuid.uuid4().hex}")
    yield terminal
    terminal.close()


QUICKSTART = {
    60: """\
every case: experiment quickstart, parallelism data,
topology 1n1g, batch 8, classes 500, precision fp32, threads
2

every row: status ok, runs ok 5, speedup 1.00

mxnet 1.9.1
  samples/s      31.20
  min to max     27.59 to 33.22
  CV             8.38 %
  95 % interval  27.47 to 33.89

oneflow 0.9.0
  samples/s      7.003
  min to max     6.828 to 7.065
  CV             1.38 %
  95 % interval  6.866 to 7.107

pytorch 2.13.0
  samples/s      38.26
  min to max     35.90 to 40.17
  CV             5.09 %
  95 % interval  35.56 to 40.36""",
    80: """\
every case: experiment quickstart, parallelism data, topology 1n1g, batch 8,
classes 500, precision fp32, threads 2

every row: status ok, runs ok 5, speedup 1.00

framework       samples/s      min to max      CV   95 % interval
mxnet 1.9.1         31.20  27.59 to 33.22  8.38 %  27.47 to 33.89
oneflow 0.9.0       7.003  6.828 to 7.065  1.38 %  6.866 to 7.107
pytorch 2.13.0      38.26  35.90 to 40.17  5.09 %  35.56 to 40.36""",
    120: """\
every case: experiment quickstart, parallelism data, topology 1n1g, batch 8, classes 500, precision fp32, threads 2

framework       status  samples/s      min to max      CV   95 % interval  runs ok  speedup
mxnet 1.9.1     ok          31.20  27.59 to 33.22  8.38 %  27.47 to 33.89        5     1.00
oneflow 0.9.0   ok          7.003  6.828 to 7.065  1.38 %  6.866 to 7.107        5     1.00
pytorch 2.13.0  ok          38.26  35.90 to 40.17  5.09 %  35.56 to 40.36        5     1.00""",
}


@pytest.mark.parametrize("columns", QUICKSTART)
def test_results_fit_the_terminal(terminal: Terminal, columns: int) -> None:
    ours = (
        "env",
        "-u",
        "COLUMNS",
        "-u",
        "LINES",
        sys.executable,
        "-m",
        "dlperf",
    )  # not the width of the tests
    terminal.start(*ours, "results", "evidence/quickstart", columns=columns)
    until(lambda: terminal.ask("display-message", "-p", "#{pane_dead}").strip() == "1")
    assert QUICKSTART[columns].splitlines() == terminal.screen()
