"""Ctrl-C and SIGTERM while a sweep runs: stop, then kill, then say what may be left.

The first signal asks the ranks of the current run to end and kills them after the grace period; the second
kills them at once; the third gives up waiting. Whatever happens, the supervisor kills its tree when this
process is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from dlperf.running.supervised import SupervisedRun

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GIVE_UP = 3


class Interrupted(KeyboardInterrupt):
    """The user, or the batch system, wants an end; `exit_code` is what the shell expects to see."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class Interrupts:
    """Takes SIGINT and SIGTERM, in the main thread, while the block `taken` runs.

    Runs are held and attached in any thread; several may go on at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._runs: dict[int, SupervisedRun | None] = {}  # by thread; None while a run is being started
        self._number: int | None = None
        self._count = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals; the former handlers come back at the end."""
        former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """From here on a signal does not break off what the block does: it stops the run that is attached."""
        thread = threading.get_ident()
        former = thread in self._runs
        self._runs.setdefault(thread, None)
        try:
            yield
        finally:
            if former:
                self._runs[thread] = None
            else:
                del self._runs[thread]

    def attach(self, run: SupervisedRun) -> None:
        """Let signals stop `run`, one that has come already too; inside `held`."""
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
        # As a list at once: the threads that hold runs go on while this goes through them.
        runs = [run for run in list(self._runs.values()) if run is not None]
        if not self._runs or (not runs and self._count > 1):
            raise Interrupted(number)
        if self._count == 1:
            self._say("stopping this run and its processes; once more kills them at once")
        elif self._count < _GIVE_UP:
            self._say("killing the processes of this run; once more leaves without waiting for their end")
        if runs and self._count >= _GIVE_UP:
            self._give_up(runs, number)
        for run in runs:  # one that is being started is stopped then
            (run.stop if self._count == 1 else run.kill)()

    def _give_up(self, runs: list[SupervisedRun], number: int) -> NoReturn:
        commands = "; ".join(run.removal_command for run in runs)
        self._say(f"left without waiting; if something of the run is left, end it with: {commands}")
        os._exit(128 + number)
