"""A supervisor in a folder of its own. For tests only."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import MARK, marked, until

SUPERVISOR = Path(__file__).parents[2] / "frameworks" / "supervisor.py"

# A grandchild in a session of its own that ignores SIGTERM; the program goes on when it has printed its line.
LOOSE_CHILD = """
import os, signal, sys, time
started, starts = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("loose", os.getpid())
        os.write(starts, b".")
        time.sleep(600)
    os._exit(0)
os.read(started, 1)
"""
# A rank and its children share a log. Python with -u writes a line and its end in two calls, between which
# another process may write; with line buffering each `print` is one call.
ONE_WRITE_PER_LINE = "import sys\nsys.stdout.reconfigure(line_buffering=True)\n"


@dataclass
class Lab:
    """Starts supervisors in `folder`; every rank and everything it starts has `mark` in its environment."""

    folder: Path
    python: str = sys.executable
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    stack: ExitStack = field(default_factory=ExitStack)

    def launch(self, *programs: str, argv: list[str] | None = None, **settings: Any) -> None:
        """Write launch.json: one rank for each Python program; `settings` replace the defaults.

        A program's `print` writes its line at once and in one piece.
        """
        whole_lines = [ONE_WRITE_PER_LINE + program for program in programs]
        commands = [[sys.executable, "-c", program] for program in whole_lines] or [argv]
        ranks = [
            {
                "rank": rank,
                "argv": command,
                "env": {MARK: self.mark},
                "cpus": [],
                "log": f"logs/rank{rank}.log",
            }
            for rank, command in enumerate(commands)
        ]
        content = {
            "schema_version": 1,
            "case_id": "case",
            "node_rank": 0,
            "ranks": ranks,
            "inherit": ["PATH"],
            "time_limit_seconds": 60,
            "stall_limit_seconds": 60,
            "lease_seconds": 60,
            "grace_seconds": 3,
        }
        (self.folder / "launch.json").write_text(json.dumps(content | settings))

    def edit_rank(self, rank: int, **changes: Any) -> None:
        """Change the entry of one rank in launch.json."""
        content = json.loads((self.folder / "launch.json").read_text())
        content["ranks"][rank].update(changes)
        (self.folder / "launch.json").write_text(json.dumps(content))

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start the supervisor; its three streams are pipes unless `options` change that."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [self.python, "-I", str(SUPERVISOR), "launch.json"]
        process = subprocess.Popen(command, cwd=self.folder, **(pipes | options))
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process

    def run(self) -> tuple[int, list[dict[str, Any]]]:
        """Start it, keep its standard input open, read its output to the end: exit code and events."""
        process = self.start()
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        return process.wait(), events

    @property
    def outcome(self) -> dict[str, Any]:
        """outcome.json."""
        content: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return content

    def log(self, rank: int = 0) -> bytes:
        """The bytes of a rank's log."""
        return (self.folder / "logs" / f"rank{rank}.log").read_bytes()

    def until_log(self, text: bytes, *, rank: int = 0) -> None:
        """Wait until a rank's log holds `text`."""
        path = self.folder / "logs" / f"rank{rank}.log"
        until(lambda: path.exists() and text in path.read_bytes(), what=f"{text!r} in {path}")

    def left(self) -> set[int]:
        """Processes of the ranks that are still alive."""
        return marked(self.mark)
