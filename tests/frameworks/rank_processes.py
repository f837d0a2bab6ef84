"""The processes of several ranks, started and read together; none outlives its test."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

_LIMIT_SECONDS = 300


class RankProcesses:
    """Starts ranks in `folder`; leaving the context kills those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def start(
        self, argv: Sequence[str | Path], environments: Iterable[dict[str, str]]
    ) -> list[subprocess.Popen[str]]:
        """Start `argv` once for each environment, which is added to the test's own."""
        processes = [
            subprocess.Popen(
                [*map(str, argv)],
                env={**os.environ, **environment},
                cwd=self._folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for environment in environments
        ]
        self._started += processes
        return processes


def outputs_of(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for the ranks, which must all succeed; the standard output of each."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    outputs = []
    for process in processes:
        out, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        assert 0 == process.returncode, errors
        outputs.append(out)
    return outputs
