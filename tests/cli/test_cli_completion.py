"""Completion in real shells: what a person sees who presses Tab."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_terminal import Terminal, needs_tmux, terminal_in

SHELLS = {
    "bash": ("bash --norc", 'eval "$(dlperf completion bash)"'),
    "zsh": ("zsh -f", 'autoload -U compinit; compinit -D -u; eval "$(dlperf completion zsh)"'),
    "fish": ("fish --no-config", "dlperf completion fish | source"),
}

pytestmark = [pytest.mark.slow, needs_tmux]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell that has read the completion script."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed (apt install {request.param})")
    command, read_script = SHELLS[request.param]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with terminal_in(tmp_path) as terminal:
        variables = {"HOME": str(tmp_path), "PATH": path, "PS1": "$ "}
        terminal.start(*command.split(), columns=120, variables=variables)
        terminal.type(f"{read_script}; echo is now re''ady", "Enter")
        terminal.until_screen("is now ready")
        yield terminal


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("plan r100_em", "plan r100_emore"),
        ("align y1 --frameworks onef", "align y1 --frameworks oneflow"),
        ("align y1 --frameworks mxnet,oneflow==0.9", "align y1 --frameworks mxnet,oneflow==0.9.0"),
        ("plan y1 --only parall", "plan y1 --only parallelism="),
    ],
)
def test_tab_completes_a_name(shell: Terminal, typed: str, completed: str) -> None:
    shell.type(f"dlperf {typed}", "Tab")
    shell.until_screen(f"dlperf {completed}")
