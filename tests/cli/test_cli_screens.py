"""What a person sees in a real terminal of 60, 80 and 120 columns: the files of screens/, to be looked at.

The figures are those of evidence/quickstart. To write a screen anew, delete its file and run the test twice.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until
from real_terminal import Terminal, needs_tmux, terminal_in
from sweep_lab import SweepLab

ROOT = Path(__file__).parents[2]
SCREENS = Path(__file__).parent / "screens"
COMMANDS = {
    # As on the machine of the figures, so that every run is done.
    "run": "run quickstart -S device=cpu -S threads_per_device=2",
    "plan": "plan quickstart -S device=cpu -S threads_per_device=2",
    "results": "results results/quickstart",
    "compare": "compare framework=mxnet framework=pytorch --in results/quickstart",
    "show": "show oneflow results/quickstart",
    "status": "status results/half",
    "list": "list frameworks",
}

pytestmark = [pytest.mark.slow, needs_tmux]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """In a folder with the results of a sweep, and with half of them."""
    shutil.copytree(ROOT / "evidence/quickstart", tmp_path / "results/quickstart")
    runs = shutil.copytree(ROOT / "evidence/quickstart", tmp_path / "results/half") / "runs"
    for folder in runs.glob("*/r[345]"):
        shutil.rmtree(folder)
    with terminal_in(tmp_path) as terminal:
        yield terminal


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_screen_is_the_one_that_was_looked_at(terminal: Terminal, name: str, columns: int) -> None:
    terminal.start(sys.executable, "-m", "dlperf", *COMMANDS[name].split(), columns=columns)
    terminal.until_end()
    screen = terminal.screen()
    if name == "plan":
        del screen[: screen.index(next(line for line in screen if line.startswith("every case")))]  # machine
    kept = SCREENS / f"{name}-{columns}.txt"
    if not kept.is_file():
        kept.write_text("\n".join(screen) + "\n")
        pytest.fail(f"{kept.name} was missing and is written; look at it")
    assert kept.read_text().splitlines() == screen


def test_the_live_line_of_a_run_leaves_nothing_behind_when_the_terminal_is_resized(tmp_path: Path) -> None:
    lab = SweepLab(tmp_path)
    lab.write(
        options={"step_seconds": 0.2},
        measure={"warmup_iterations": 1, "measured_iterations": 5000, "repeats": 1},
    )

    def step(terminal: Terminal) -> int:
        """The step that the live line shows, where it is all that stands below the line of the start."""
        text = "\n".join(terminal.screen())
        live = re.search(r"r1: started\n[^\n]*0/1  numpy 1n1g r1: step (\d+)[^\n]*$", text)
        return int(live[1]) if live else 0

    with lab.stack, terminal_in(tmp_path) as terminal:
        # Below other lines: in an empty window tmux moves what is above the cursor out of reach.
        command = f"seq 50; exec {sys.executable} -m dlperf run tiny.yaml"
        terminal.start("sh", "-c", command, columns=120, variables=lab.environment())
        until(lambda: step(terminal), what="the live line")
        for columns in (60, 40, 120):
            terminal.resize(columns)
            later = step(terminal) + 5  # a line or more was drawn since
            until(lambda later=later: step(terminal) > later, what=f"one live line in {columns} columns")
    until(lambda: not lab.left(), what="every process of the test is gone")
