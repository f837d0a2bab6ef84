"""How far a sweep is, on standard error: a live line on a terminal, else one line a change of state."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from dlperf.cli.plan import duration
from dlperf.logs.events import Step
from dlperf.plan.case import Case
from dlperf.results.schema import RunResult, Status
from dlperf.running.run import Progress
from dlperf.statistics.basic import samples_per_second

_HEARTBEAT_SECONDS = 60.0
# The live line is drawn seldom: drawing takes time from what is measured.
_REDRAW_SECONDS = 1.0
_STEPS_OF_LIVE_RATE = 20
_BAR_WIDTH = 24


def progress_for_terminal(
    *, known_seconds: Mapping[str, float], cases: Iterable[str], parallel_nodes: int = 1
) -> Progress:
    """The progress that suits standard error.

    `known_seconds` are by case id, `cases` holds one id per run; `parallel_nodes`: runs at a time.
    """
    state = SweepState(known_seconds=known_seconds, cases=cases)
    if parallel_nodes > 1:
        return ParallelProgress(state)
    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(state, console)
    return PlainProgress(state)


class SweepState:
    """What both displays know: the count of runs, the current one, its last steps, the time that is left."""

    def __init__(self, *, known_seconds: Mapping[str, float], cases: Iterable[str]) -> None:
        self._seconds = {case_id: [seconds] for case_id, seconds in known_seconds.items()}
        self._waiting = deque(cases)
        self.total = self.done = 0
        self.case: Case | None = None
        self.repeat = 0
        self.started = time.monotonic()
        self.last: Step | None = None
        self._steps: deque[Step] = deque(maxlen=_STEPS_OF_LIVE_RATE)

    def start(self, case: Case, repeat: int) -> None:
        """Take note of a new run."""
        self.case, self.repeat, self.started, self.last = case, repeat, time.monotonic(), None
        self._steps.clear()

    def step(self, step: Step) -> None:
        """Take note of an iteration; the rate is of one kind of steps only."""
        if self.last is not None and self.last.kind != step.kind:
            self._steps.clear()
        self.last = step
        self._steps.append(step)

    def end(self, result: RunResult) -> None:
        """Take note of a result."""
        self.done += 1
        if self._waiting:
            self._waiting.popleft()
        if result.seconds is not None and result.status is Status.OK:
            self._seconds.setdefault(result.case.case_id, []).append(result.seconds)

    @property
    def count(self) -> str:
        """Such as `[3/24]`, the current run being the third."""
        return f"[{min(self.done + 1, self.total)}/{self.total}]"

    @property
    def elapsed(self) -> float:
        """Seconds of the current run."""
        return time.monotonic() - self.started

    def doing(self) -> str:
        """Where the current run is, such as `step 45 of 120, 1234.5 samples/s`."""
        if self.case is None or self.last is None:
            return "starting"
        measure = self.case.measure
        number, total = self.last.step + 1, measure.warmup_iterations + measure.measured_iterations
        rate = samples_per_second((s.samples for s in self._steps), [s.seconds for s in self._steps])
        warming = " (warm-up)" if self.last.kind == "warmup" else ""
        return f"step {number} of {total}{warming}, {rate:.1f} samples/s"

    def left_seconds(self) -> float | None:
        """What is left, by what runs of the same case took, else any runs; None before the first."""
        if not self._seconds:
            return None
        every = [seconds for series in self._seconds.values() for seconds in series]
        typical = sum(every) / len(every)
        total = 0.0
        for case_id in self._waiting:
            series = self._seconds.get(case_id)
            total += sum(series) / len(series) if series else typical
        return max(0.0, total - (self.elapsed if self.case is not None else 0.0))


def _outcome(result: RunResult) -> str:
    if result.figures is not None:
        odd = f" ({result.reason})" if result.reason else ""
        took = f", {duration(result.seconds)}" if result.seconds is not None else ""
        return f"{result.figures.samples_per_sec:.1f} samples/s{took}{odd}"
    return f"{result.status}: {result.reason}"


class PlainProgress:
    """Lines: one when a run starts, one when it ends, one a minute between."""

    def __init__(self, state: SweepState) -> None:
        self._state = state
        self._spoke = time.monotonic()

    def message(self, text: str) -> None:
        """See Progress."""
        click.echo(text, err=True)
        self._spoke = time.monotonic()

    def planned(self, *, total: int, done: int) -> None:
        """See Progress."""
        self._state.total, self._state.done = total, done
        resumed = f", {done} of them done before" if done else ""
        self.message(f"{total} run{'s' if total > 1 else ''}{resumed}")

    def started(self, case: Case, *, repeat: int) -> None:
        """See Progress."""
        self._state.start(case, repeat)
        self.message(f"{self._state.count} {case.case_id} r{repeat}: started")

    def stepped(self, step: Step) -> None:
        """See Progress."""
        self._state.step(step)

    def ticked(self) -> None:
        """See Progress."""
        if time.monotonic() - self._spoke >= _HEARTBEAT_SECONDS and self._state.case is not None:
            state = self._state
            name = f"{state.count} {self._state.case.case_id} r{state.repeat}"
            self.message(f"{name}: running for {duration(state.elapsed)}, {state.doing()}{_left(state)}")

    def ended(self, result: RunResult) -> None:
        """See Progress."""
        count = self._state.count
        self._state.end(result)
        self.message(
            f"{count} {result.case.case_id} r{result.repeat}: {_outcome(result)}{_left(self._state)}"
        )

    def finished(self) -> None:
        """See Progress."""


class ParallelProgress(PlainProgress):
    """Lines without the steps of a run: several runs go on at a time, each in its own thread."""

    def __init__(self, state: SweepState) -> None:
        super().__init__(state)
        self._lock = threading.RLock()

    def started(self, case: Case, *, repeat: int) -> None:
        """See Progress."""
        self.message(f"{case.case_id} r{repeat}: started")

    def stepped(self, step: Step) -> None:
        """See Progress."""

    def ticked(self) -> None:
        """See Progress."""

    def ended(self, result: RunResult) -> None:
        """See Progress."""
        with self._lock:
            super().ended(result)


class LiveProgress:
    """One line that is drawn again and again, finished runs above it."""

    def __init__(self, state: SweepState, console: Console) -> None:
        self._state = state
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def message(self, text: str) -> None:
        """See Progress."""
        self._live.console.print(Text(text))

    def planned(self, *, total: int, done: int) -> None:
        """See Progress."""
        self._state.total, self._state.done = total, done
        self._live.start()

    def started(self, case: Case, *, repeat: int) -> None:
        """See Progress."""
        self._state.start(case, repeat)
        self._live.console.print(Text(f"{self._state.count} {case.case_id} r{repeat}", style="dim"))
        self._draw()

    def stepped(self, step: Step) -> None:
        """See Progress."""
        self._state.step(step)

    def ticked(self) -> None:
        """See Progress."""
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def ended(self, result: RunResult) -> None:
        """See Progress."""
        self._state.end(result)
        style = "green" if result.status is Status.OK else "red"
        self._live.console.print(
            Text(f"{result.case.case_id} r{result.repeat}: "), Text(_outcome(result), style=style), sep=""
        )
        self._draw()

    def finished(self) -> None:
        """See Progress."""
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        state = self._state
        if state.case is None:
            return
        filled = _BAR_WIDTH * state.done // max(1, state.total)
        doing = f"{state.done}/{state.total}  {state.doing()}{_left(state)}"
        # Where the terminal is narrow the end is cut: the name of the case, which stands above the line too.
        line = Text.assemble(
            ("━" * filled, "green"),
            ("━" * (_BAR_WIDTH - filled), "dim"),
            f" {doing}  {state.case.case_id} r{state.repeat}",
            no_wrap=True,
            overflow="ellipsis",
        )
        self._live.update(line, refresh=True)


def _left(state: SweepState) -> str:
    left = state.left_seconds()
    return f"; about {duration(left)} left" if left and state.done < state.total else ""
