"""What a person sees in a real terminal of 60, 80 and 120 columns: the files of screens/, to be looked at.

The figures are those of evidence/quickstart. To write a screen anew, delete its file and run the test twice.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_terminal import Terminal, needs_tmux, terminal_in

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
