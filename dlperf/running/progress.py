"""What a sweep tells about itself while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dlperf.logs.events import Step
    from dlperf.plan.case import Case
    from dlperf.results.schema import RunResult


class Progress(Protocol):
    """Shows people how far a sweep is. Every method returns at once."""

    def message(self, text: str) -> None:
        """One line about something that happened."""

    def planned(self, *, total: int, done: int) -> None:
        """Runs in all, and those of them that need not be made again."""

    def started(self, case: Case, *, repeat: int) -> None:
        """A run begins."""

    def stepped(self, step: Step) -> None:
        """Rank 0 of the current run has finished an iteration."""

    def ticked(self) -> None:
        """At least every half second while a run goes on."""

    def ended(self, result: RunResult) -> None:
        """A run has its result, which is stored; one that was never started has one too."""

    def finished(self) -> None:
        """Nothing more comes; what was drawn on the terminal is taken away."""
