"""`python -m frameworks.original.run CASE_FILE PROGRAM_FILE` trains with an original program.

It makes the working folder, starts the program's processes, passes their output on, line by line, and prints
the events of a training program of ours beside it: the figures are the program's own, an average over the
iterations that each of its lines covers. When enough iterations are measured it ends the program, which is
success. docs/formats.md describes PROGRAM_FILE.
"""

import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

from frameworks.common.case import Case, case_from_dict, rank_from_environment
from frameworks.common.data_files import DataFiles
from frameworks.common.dataset import EXIT_DATA, DataError
from frameworks.common.events import END, START, EventLog
from frameworks.common.interference import Window
from frameworks.common.peak_memory import AnonymousPeak
from frameworks.original import workspace
from frameworks.original.data import ReadWindow
from frameworks.original.lines import Dialect, Record, Series
from frameworks.original.processes import Processes, ProcessSpec
from frameworks.original.workspace import Edit, Unfit
from frameworks.process_tree import become_subreaper, end_as, signal_all, tree

SCHEMA_VERSION = 1
# The program's own time may differ so much from ours before the log warns of it: a part of it, and seconds.
_CLOCK_PART, _CLOCK_SECONDS = 0.1, 1.0
# Between two looks at the files of a data set, which cost a system call each.
_LOOK_SECONDS = 1.0
_LEAVES_OUT = "the rates that it prints leave out time that passes between its lines"
_LONGER = "the rates that it prints are of more time than passes between its lines"


class Failed(Exception):
    """The run cannot be made or has failed; the text is one line for a person."""


class Course:
    """From the lines of the program to steps and windows, until enough iterations are measured."""

    def __init__(self, case: Case, log: EventLog, iterations_per_line: int, *, reads_data: bool) -> None:
        self._case, self._log, self._per_line = case, log, iterations_per_line
        self._covered = self.measured = 0
        self._reads_data = reads_data
        self._window, self._reading = Window(tree), ReadWindow()
        self._kind = "warmup" if case.warmup_iterations else "train"
        # Since the first line that counts, by our clock and by the program's.
        self._began: Optional[float] = None
        self._seconds = self._told_seconds = 0.0

    @property
    def is_over(self) -> bool:
        """Whether enough iterations are measured."""
        return self.measured >= self._case.measured_iterations

    def take(self, record: Record) -> None:
        """Print the step of a record, and the window that ends with it."""
        samples = self._per_line * self._case.global_batch_size
        seconds = samples / record.samples_per_sec
        self._covered += self._per_line
        if self._kind == "train":
            self.measured += self._per_line
            self._compare(seconds)
        self._log.step(
            self._covered - 1,
            samples,
            seconds,
            record.loss,
            self._kind,
            iterations=self._per_line,
        )
        warm = self._kind == "warmup" and self._covered >= self._case.warmup_iterations
        if warm or self.is_over:
            counters = self._window.close()
            if counters is not None:
                self._log.event("interference", counters, kind=self._kind)
            if self._reads_data:
                self._log.event("reading", self._reading.close(), kind=self._kind)
        if warm:
            self._began = time.monotonic()
            self._kind, self._window, self._reading = "train", Window(tree), ReadWindow()

    def _compare(self, told_seconds: float) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now
            return
        self._seconds, self._told_seconds = now - self._began, self._told_seconds + told_seconds

    def caution(self) -> Optional[str]:
        """Print both times; what is to be said of them, if anything."""
        ours, told = self._seconds, self._told_seconds
        value = {"seconds": round(ours, 3), "told_seconds": round(told, 3)}
        self._log.event("clock", value)
        if abs(ours - told) < max(_CLOCK_SECONDS, _CLOCK_PART * ours):
            return None
        return _LEAVES_OUT if told < ours else _LONGER


def run(case: Case, content: Dict[str, Any], program: Dict[str, Any]) -> None:
    """Train the case.

    Failed where that did not work out, DataError where the data set is damaged; where the program failed this
    process ends as it did.
    """
    log = EventLog(rank_from_environment().rank)
    log.event("init_start", event_type=START)
    facts = _facts(case, content, program)
    log.event("framework", facts)
    log.event("global_batch_size", case.global_batch_size)
    work = Path(program["work"])
    _make(work, program)
    specs = [ProcessSpec(**spec) for spec in program["processes"]]
    data = None
    if case.data is not None and program.get("data_form") is not None:
        data = DataFiles(case.data, program["data_form"], range(1), 1)
        log.event("data_set", data.prepare())
    log.event("init_stop", event_type=END)
    log.event("run_start", event_type=START)
    course = Course(case, log, program["iterations_per_line"], reads_data=data is not None)
    series = Series(Dialect(program["dialect"]), len(specs))
    become_subreaper()  # what a launcher leaves stays in `tree`
    try:
        processes = Processes(specs, work)
    except OSError as error:
        raise Failed(f"the program cannot be started: {error}") from error
    try:
        _follow(processes, series, course, data, tagged=len(specs) > 1)
        failure = processes.failure
        if course.is_over:
            _measure(case, log)
    finally:
        _pass_on(processes.end(kill=processes.failure is not None), tagged=len(specs) > 1)
        signal_all(signal.SIGKILL)  # whatever group it is in
    if course.is_over:
        caution = course.caution()
        if caution is not None:
            log.event("framework", {**facts, "caution": caution})
        log.event("run_stop", event_type=END, status="success")
        return
    error = None if data is None else data.damage()
    if error is not None:
        raise error
    if failure is not None:
        end_as(failure)
    raise Failed(
        f"the program ended by itself: it printed {course.measured} of {case.measured_iterations} "
        "iterations to measure"
    )


def _facts(case: Case, content: Dict[str, Any], program: Dict[str, Any]) -> Dict[str, Any]:
    name = program["distribution"]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise Failed(f"the package {name} is not installed in {sys.prefix}") from None
    return {
        "name": case.framework,
        "version": version,
        "python": platform.python_version(),
        "source": content["source"],
        "averaged_over_iterations": program["iterations_per_line"],
    }


def _make(work: Path, program: Dict[str, Any]) -> None:
    """Make the working folder, and show what differs from the source."""
    edits = [Edit(**edit) for edit in program["edits"]]
    try:
        diff = workspace.make(Path(program["source"]), work, edits, program["files"])
    except Unfit as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise Failed(f"the copy of the source cannot be made: {error}") from error
    print("\n".join(["changes to the source:", *diff] if diff else ["no changes to the source"]), flush=True)


def _follow(
    processes: Processes, series: Series, course: Course, data: Optional[DataFiles], *, tagged: bool
) -> None:
    """Pass lines on and count them, until there are enough or the program ends.

    Raises DataError where the data set is damaged meanwhile.
    """
    looked = time.monotonic()
    for come in processes.lines():
        if data is not None and time.monotonic() - looked >= _LOOK_SECONDS:
            looked = time.monotonic()
            error = data.look()
            if error is not None:
                raise error
        if come is None:
            continue
        _pass_on([come], tagged=tagged)
        for record in series.take(*come):
            if not course.is_over:
                course.take(record)
        if course.is_over:
            return


def _pass_on(lines: Iterable[Tuple[int, bytes]], *, tagged: bool) -> None:
    """Print lines as they came; of several processes in mpirun's manner, which says whose each line is."""
    for process, line in lines:
        tag = b"[1,%d]<stdout>:" % process if tagged else b""
        sys.stdout.buffer.write(tag + line)
    sys.stdout.buffer.flush()


def _measure(case: Case, log: EventLog) -> None:
    """What the processes took of a CPU's memory, while they are still there."""
    if case.device == "cuda":
        return
    ours = os.getpid()
    peaks = [AnonymousPeak(Path(f"/proc/{pid}/status")).read() for pid in tree() if pid != ours]
    known = [peak for peak in peaks if peak is not None]
    if known:
        log.event("peak_anonymous_bytes", max(known))  # of the largest process, as that of the largest rank


def _read(path: str) -> Dict[str, Any]:
    content: Dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def main(arguments: Optional[List[str]] = None) -> int:
    """Do what the command line says; the exit code."""
    case_file, program_file = sys.argv[1:] if arguments is None else arguments
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    content, program = _read(case_file), _read(program_file)
    try:
        if program["schema_version"] != SCHEMA_VERSION:
            raise Failed(f"{program_file}: schema_version is {program['schema_version']!r}")  # noqa: TRY301
        run(case_from_dict(content), content, program)
    except DataError as error:
        EventLog(rank_from_environment().rank).data_error(error)
        return EXIT_DATA
    except Failed as error:
        print(f"dlperf: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
