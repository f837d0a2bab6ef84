"""Ctrl-C and SIGTERM during a sweep: first stop, then kill, then exit and say what may be left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from dlperf.running.supervision import SupervisedRun

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GIVE_UP = 3


class Interrupted(KeyboardInterrupt):
    """The user or the batch system wants dlperf to end; `exit_code` is what the shell expects."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class Interrupts:
    """Handles SIGINT and SIGTERM in the main thread while the block `handled` runs.

    Runs are shielded and attached in any thread; several may be in progress at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._runs: dict[int, SupervisedRun | None] = {}  # by thread; None while a run is being started
        self._number: int | None = None
        self._count = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Install the signal handlers; restores the previous ones at the end."""
        previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A signal does not break off the block; it stops the attached run."""
        thread = threading.get_ident()
        nested = thread in self._runs
        self._runs.setdefault(thread, None)
        try:
            yield
        finally:
            if nested:
                self._runs[thread] = None
            else:
                del self._runs[thread]

    def attach(self, run: SupervisedRun) -> None:
        """Let signals stop `run`, including a signal that came before; call inside `shielded`."""
        self._runs[threading.get_ident()] = run
        if self._number is not None:
            run.stop()

    def check(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self._number is not None:
            raise Interrupted(self._number)

    @property
    def pending(self) -> bool:
        """Whether there was a signal."""
        return self._number is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self._number = number
        # Copied in one step: the threads that run cases keep changing the dictionary.
        runs = [run for run in list(self._runs.values()) if run is not None]
        if not self._runs or (not runs and self._count > 1):
            raise Interrupted(number)
        if self._count == 1:
            self._say("stopping the run and its processes; repeat to kill them at once")
        elif self._count < _GIVE_UP:
            self._say("killing the processes of the run; repeat to exit without waiting for them")
        if runs and self._count >= _GIVE_UP:
            self._give_up(runs, number)
        for run in runs:  # a run that is still being started is stopped when it is attached
            (run.stop if self._count == 1 else run.kill)()

    def _give_up(self, runs: list[SupervisedRun], number: int) -> NoReturn:
        commands = "; ".join(run.removal_command for run in runs)
        self._say(f"exiting without waiting; if processes of the run are left, end them with: {commands}")
        os._exit(128 + number)
