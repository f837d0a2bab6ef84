"""How far a sweep is, on standard error: a live line on a terminal, else one line per change of state."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.control import Control
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.segment import ControlType, Segment
from rich.text import Text

from dlperf.cli.plan import duration
from dlperf.cli.terminal import say, visible
from dlperf.logs.events import Step
from dlperf.plan.case import Case
from dlperf.results.schema import RunResult, Status
from dlperf.statistics.basic import samples_per_second
from dlperf.wording import plural

_HEARTBEAT_SECONDS = 60.0
# The live line is drawn seldom: drawing takes time from what is measured.
_REDRAW_SECONDS = 1.0
_STEPS_OF_LIVE_RATE = 20


class Estimate:
    """The time that the remaining runs will take, from the seconds that runs took before."""

    def __init__(self, known_seconds: Mapping[str, float], cases: Iterable[str]) -> None:
        self._seconds = {case_id: [seconds] for case_id, seconds in known_seconds.items()}
        self._waiting = deque(cases)

    def end(self, result: RunResult) -> None:
        """Take note of a result."""
        if self._waiting:
            self._waiting.popleft()
        if result.seconds is not None and result.status is Status.OK:
            self._seconds.setdefault(result.case.case_id, []).append(result.seconds)

    def left_seconds(self) -> float | None:
        """Of every run without a result: as runs of its case, else as all runs; None before the first."""
        means = {case_id: sum(series) / len(series) for case_id, series in self._seconds.items()}
        if not means:
            return None
        every = [seconds for series in self._seconds.values() for seconds in series]
        return sum(means.get(case_id, sum(every) / len(every)) for case_id in self._waiting)


class _Bar(Progress):
    """Leaves the last column free: behind a full line terminals differ in where the cursor is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line as it is drawn now."""
        yield from console.render(super().get_renderable(), options.update(max_width=options.max_width - 1))

    def get_renderable(self) -> RenderableType:
        """The line, which is rendered anew each time."""
        return self


class _Reflow(RenderHook):
    """Erases a drawn line in whole where the terminal has become narrower.

    Most terminals break it then into several, of which rich, which drew one, erases the last.
    """

    def __init__(self, bar: _Bar) -> None:
        self._bar = bar
        self._cells = 0  # of the line as it was drawn

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What rich is about to print, behind what erases the other parts of the line."""
        console = self._bar.console
        above = max(0, math.ceil(self._cells / console.width) - 1)
        line = console.render_lines(self._bar.get_renderable(), pad=False)[-1:]
        self._cells = sum(map(Segment.get_line_length, line))
        return [
            Control(*(((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * above)),
            *renderables,
        ]


class SweepProgress:
    """Says what happens: one line when a run starts, one when it ends, one per minute in between.

    A terminal gets a line that is redrawn instead of those in between. Several runs at a time, each in its
    own thread, are announced without their steps. The methods are those of `running.run.Progress`.
    """

    def __init__(
        self,
        *,
        known_seconds: Mapping[str, float],
        cases: Iterable[str],
        parallel: bool = False,
        console: Console | None = None,
    ) -> None:
        """`known_seconds` are by case id; `cases` has one id per run; `console` shows the redrawn line."""
        self._estimate = Estimate(known_seconds, cases)
        self._parallel = parallel
        self._lock = threading.RLock()
        self._total = self._done = self._repeat = 0
        self._case: Case | None = None
        self._steps: deque[Step] = deque(maxlen=_STEPS_OF_LIVE_RATE)
        self._started = self._spoke = time.monotonic()
        self._live = console is not None
        text = TextColumn("{task.completed}/{task.total}  {task.description}", markup=False)
        self._bar = _Bar(
            SpinnerColumn(),
            BarColumn(12),
            text,
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not self._live,
        )
        self._reflow = _Reflow(self._bar)
        self._task = self._bar.add_task("", visible=False)

    def message(self, text: str, *, style: str = "") -> None:
        """One line about an event."""
        if self._live:
            self._bar.console.print(Text(visible(text), style=style))
        else:
            say(text)
            self._spoke = time.monotonic()

    def planned(self, *, total: int, done: int) -> None:
        """The number of runs, and how many of them are done already."""
        self._total, self._done = total, done
        if self._live and not self._bar.live.is_started:
            self._bar.console.push_render_hook(self._reflow)  # before rich's own, and so called before it
            self._bar.start()
        elif not self._live:
            self.message(plural(total, "run") + (f", {done} of them done before" if done else ""))

    def started(self, case: Case, *, repeat: int) -> None:
        """A run starts."""
        if self._parallel:
            self.message(f"{case.case_id} r{repeat}: started")
            return
        self._case, self._repeat, self._started = case, repeat, time.monotonic()
        self._steps.clear()
        self.message(f"{self._name}: started", style="dim")
        self._draw()

    def stepped(self, step: Step) -> None:
        """Rank 0 of the current run has finished an iteration; a rate is of one kind of steps only."""
        if self._steps and self._steps[-1].kind != step.kind:
            self._steps.clear()
        self._steps.append(step)

    def ticked(self) -> None:
        """Called at least every half second during a run."""
        if self._case is None:
            return
        silent = time.monotonic() - self._spoke
        if self._live and silent >= _REDRAW_SECONDS:
            self._draw()
        elif not self._live and silent >= _HEARTBEAT_SECONDS:
            running = duration(time.monotonic() - self._started)
            doing = self._doing() if self._steps else "still starting"
            self.message(f"{self._name}: running for {running}, {doing}{self._left()}")

    def ended(self, result: RunResult) -> None:
        """The result of a run is stored, also of one that never started."""
        with self._lock:
            name = f"{self._count} {result.case.case_id} r{result.repeat}"
            self._done += 1
            self._estimate.end(result)
            left = "" if self._live else self._left()
            style = "green" if result.status is Status.OK else "red"
            self.message(f"{name}: {_outcome(result)}{left}", style=style)
            self._draw()

    def finished(self) -> None:
        """The sweep has ended: remove what was drawn on the terminal."""
        if self._bar.live.is_started:
            self._bar.stop()
            self._bar.console.pop_render_hook()

    @property
    def _count(self) -> str:
        return f"[{min(self._done + 1, self._total)}/{self._total}]"

    @property
    def _name(self) -> str:
        """Such as `[3/24] CASE r1`, the current run being the third."""
        return f"{self._count} {self._case.case_id if self._case else ''} r{self._repeat}"

    def _doing(self) -> str:
        if self._case is None or not self._steps:
            return f"starting for {duration(time.monotonic() - self._started)}"
        last, measure = self._steps[-1], self._case.measure
        total = measure.warmup_iterations + measure.measured_iterations
        rate = samples_per_second(
            (step.samples for step in self._steps), [step.seconds for step in self._steps]
        )
        warming = " (warm-up)" if last.kind == "warmup" else ""
        # The last line of a program that prints averages may cover more than is asked for.
        return f"step {min(last.step + 1, total)} of {total}{warming}, {rate:.1f} samples/s"

    def _left(self) -> str:
        seconds = self._estimate.left_seconds() if self._done < self._total else None
        if seconds is None:
            return ""
        left = seconds - (time.monotonic() - self._started if self._case is not None else 0.0)
        return f"; about {duration(left)} left" if left > 0 else ""

    def _draw(self) -> None:
        if not self._live or self._case is None:
            return
        self._spoke = time.monotonic()
        # A narrow terminal cuts the end. The whole name of the case stands in the line above.
        case = self._case
        text = f"{case.framework} {case.topology} r{self._repeat}: {self._doing()}{self._left()}"
        self._bar.update(
            self._task, completed=self._done, total=self._total, description=text, visible=True, refresh=True
        )


class QuietProgress(SweepProgress):
    """Says nothing while runs go on: what became of them stands in the summary."""

    def message(self, text: str, *, style: str = "") -> None:
        """Nothing."""


def _outcome(result: RunResult) -> str:
    if result.figures is None:
        return f"{result.status}: {result.reason}"
    took = f", {duration(result.seconds)}" if result.seconds is not None else ""
    odd = f" ({result.reason})" if result.reason else ""
    return f"{result.figures.samples_per_sec:.1f} samples/s{took}{odd}"
