"""A real terminal of any width, in which a test types and reads: tmux. For tests only."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import until

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="tmux is not installed (apt install tmux)"
)


class Terminal:
    """A terminal of tmux in which one command runs, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tmux = ["tmux", "-L", f"dlperf-{uuid.uuid4().hex}", "-f", "/dev/null"]

    def start(self, *command: str, columns: int, variables: Mapping[str, str] | None = None) -> None:
        """Run it in a new window, which stays when it has ended; not at the width that the tests have."""
        own = [f"{name}={value}" for name, value in (variables or {}).items()]
        ours = ["env", "-u", "COLUMNS", "-u", "LINES", *own, *command]
        size = ["-x", str(columns), "-y", "45"]
        self.ask("new-session", "-d", *size, *ours, ";", "set-option", "-w", "remain-on-exit", "on")

    def ask(self, *words: str) -> str:
        """What a command of tmux prints."""
        done = subprocess.run(
            [*self._tmux, *words], cwd=self._folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def type(self, *keys: str) -> None:
        """Press keys, each a text or a name such as `Tab`."""
        self.ask("send-keys", *keys)

    def resize(self, columns: int) -> None:
        """Make the window wider or narrower, as a person does."""
        self.ask("resize-window", "-x", str(columns))

    def screen(self) -> list[str]:
        """The lines that were printed, without what tmux says at the end and the empty ones before it."""
        text = self.ask("capture-pane", "-p", "-S", "-").partition("Pane is dead")[0]
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def until_screen(self, text: str) -> None:
        """Wait until a line holds `text`."""
        until(lambda: any(text in line for line in self.screen()), what=f"{text!r} on the screen")

    def until_end(self) -> None:
        """Wait until the command has ended."""
        until(lambda: self.ask("display-message", "-p", "#{pane_dead}").strip() == "1")

    def close(self) -> None:
        """End it, and what runs in it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@contextmanager
def terminal_in(folder: Path) -> Iterator[Terminal]:
    """A terminal that is closed at the end."""
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        terminal.close()
