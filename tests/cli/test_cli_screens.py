"""What a person sees in a real terminal: widths of 60, 80 and 120 columns."""

# ruff: noqa: E501 - a line of a screen is one line

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_terminal import Terminal, needs_tmux, terminal_in

ROOT = Path(__file__).parents[2]
DLPERF = sys.executable, "-m", "dlperf"

pytestmark = [pytest.mark.slow, needs_tmux]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with terminal_in(ROOT) as terminal:
        yield terminal


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
    terminal.start(*DLPERF, "results", "evidence/quickstart", columns=columns)
    terminal.until_end()
    assert QUICKSTART[columns].splitlines() == terminal.screen()
