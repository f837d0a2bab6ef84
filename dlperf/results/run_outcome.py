"""How a run ended: its status, one line why, and the log line that shows it."""

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlperf.layout import LOGS_FOLDER, log_files, log_name
from dlperf.logs.endings import Outcome, RankEnd
from dlperf.logs.events import TRAIN, Event, Step
from dlperf.logs.failures import FailureKind, classify
from dlperf.logs.text import plain, read_lines
from dlperf.plan.case import Case
from dlperf.results.schema import Status
from dlperf.wording import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryKill:
    """A rank that the kernel killed, or may have killed, for lack of memory; `text` gives the evidence.

    `is_told` where the kernel's count is of the rank's own programs, not of every program of its machine.
    """

    end: RankEnd
    is_told: bool
    text: str


def memory_kill(outcome: Outcome, *, first: int | None) -> MemoryKill | None:
    """The rank that was killed for lack of memory; None where none was. `first` is the one that failed first.

    A control group of a rank's own tells for certain, whoever was seen to fail first: the others then report
    broken connections. Without one, `first` must show it by SIGKILL. Then the group that the supervisor
    shares with its ranks tells, of which the kernel takes ranks before all else; the count of the machine
    does not: it may be of any other program.
    """
    starved = next((end for end in outcome.ranks if end.oom_kills), None)
    if starved is not None:
        whom = "it" if starved.signal == signal.SIGKILL else "a process of it"
        return MemoryKill(end=starved, is_told=True, text=f"the kernel ended {whom} for lack of memory")
    end = next((end for end in outcome.ranks if end.rank == first), None)
    if end is None or end.signal != signal.SIGKILL or end.oom_kills is not None:
        return None
    in_group = outcome.group_oom_kills
    if in_group is not None:
        text = f"the kernel ended {_processes(in_group)} of its control group for lack of memory"
        return MemoryKill(end=end, is_told=True, text=text) if in_group else None
    text = (
        f"the kernel ended {_processes(outcome.oom_kills)} of its machine for lack of memory meanwhile; "
        "whether this was one cannot be told, as ranks have no control group of their own there (see dmesg)"
    )
    return MemoryKill(end=end, is_told=False, text=text) if outcome.oom_kills else None


def _processes(count: int) -> str:
    return plural(count, "process", "processes")


LONGEST_REASON = 300

# What the supervisor's reason says by itself; rank_failed and completed need a second look.
_BY_REASON = {
    "time_limit": (Status.TIMEOUT, "ran longer than its time limit"),
    "log_limit": (Status.CRASH, "printed more than a log may hold"),
    "stall_limit": (Status.STALLED, "printed nothing for longer than the stall limit"),
    "lease_lost": (Status.INCOMPLETE, "the harness that started it was gone"),
    "stopped": (Status.INCOMPLETE, "stopped before its end"),
    "lost_node": (Status.LOST_NODE, "a node was lost"),
    "preempted": (Status.PREEMPTED, "it ended with its job"),
    "job_time_limit": (Status.JOB_TIMEOUT, "it ended with its job"),
    "start_failed": (Status.CRASH, "a rank could not be started"),
}

STATUS_OF: dict[str | None, Status] = {
    FailureKind.DATA: Status.DATA,
    FailureKind.OOM: Status.OOM,
    FailureKind.KILLED: Status.KILLED,
    FailureKind.HANG: Status.STALLED,
    FailureKind.NCCL: Status.CRASH,
    FailureKind.CRASH: Status.CRASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """Status, reason and evidence as they stand in `result.json`."""

    status: Status
    reason: str | None = None
    evidence: str | None = None


def run_outcome(
    case: Case, *, steps: Sequence[Step], events: Sequence[Event], outcome: Outcome | None, folder: Path
) -> RunOutcome:
    """How the run ended, by the supervisor's outcome and the logs; `events` are those without a step."""
    if outcome is None:
        return RunOutcome(
            status=Status.INCOMPLETE,
            reason=f"no outcome.json: the supervisor itself was ended; {_progress(case, steps)}",
        )
    if outcome.reason == "unknown":
        return _of_unwatched(steps, events)
    if outcome.reason == "completed":
        return _of_completed(case, steps, folder)
    if outcome.reason == "rank_failed":
        return _of_failed_rank(case, outcome, folder)
    status, reason = _BY_REASON.get(outcome.reason, (Status.CRASH, f"ended with {outcome.reason!r}"))
    detail = outcome.detail or _progress(case, steps)
    return RunOutcome(status=status, reason=one_line(f"{reason}: {detail}"), evidence=_last_line(folder))


def _of_completed(case: Case, steps: Sequence[Step], folder: Path) -> RunOutcome:
    accepted = sum(step.iterations for step in steps if step.kind == TRAIN)
    if accepted < case.measure.measured_iterations:
        return RunOutcome(
            status=Status.INCOMPLETE,
            reason=f"every rank ended with exit code 0, but {_progress(case, steps)}",
            evidence=_last_line(folder),
        )
    return _ok(steps)


def _ok(steps: Sequence[Step]) -> RunOutcome:
    bad = next((step for step in steps if step.loss is not None and not math.isfinite(step.loss)), None)
    if bad is None:
        return RunOutcome(status=Status.OK)
    return RunOutcome(
        status=Status.OK,
        reason=f"loss not finite: {bad.loss} at step {bad.step}",
        evidence=f"{log_name(0)}:{bad.line}: tracked_stats step {bad.step} loss {bad.loss}",
    )


def _of_unwatched(steps: Sequence[Step], events: Sequence[Event]) -> RunOutcome:
    """No one watched the run, so its log alone says how it ended.

    A run with accepted steps keeps its figure although it failed: such runs were often ended by hand once
    they had enough steps.
    """
    last = {event.key: event for event in events}
    good = any(step.kind == TRAIN for step in steps)
    failure = last.get("failure")
    if failure is not None and isinstance(failure.value, dict):
        kind, shown = failure.value.get("kind"), failure.value.get("text")
        place = f"{failure.metadata.get('file')}:{failure.metadata.get('line')}"
        return RunOutcome(
            status=Status.OK if good else STATUS_OF.get(kind, Status.CRASH),
            reason=one_line(f"the run ended with {kind}: {shown}" if good else f"{kind}: {shown}"),
            evidence=plain(f"{place}: {shown}"),
        )
    if good:
        return _ok(steps)
    method = last.get("figure_method")
    why = None if method is None else method.metadata.get("no_figure_because")
    return RunOutcome(status=Status.INSUFFICIENT, reason=one_line(str(why or "no accepted step")))


def _of_failed_rank(case: Case, outcome: Outcome, folder: Path) -> RunOutcome:
    rank = outcome.first_failed_rank
    if rank is None:
        rank = next((end.rank for end in outcome.ranks if end.failed), 0)
    end = outcome.rank_end(rank)
    how = f"rank {rank} {_ending(end)}"
    killed = memory_kill(outcome, first=rank)
    if killed is not None and killed.is_told:
        # The kernel writes nothing into the log of the process that it kills.
        reason = f"rank {killed.end.rank} {_ending(killed.end)}: {killed.text}"
        return RunOutcome(status=Status.OOM, reason=reason, evidence=_last_line(folder, rank=killed.end.rank))
    failure = classify(log_lines(folder, first=rank), outcome)
    if failure is None:
        reason = f"{how}: {outcome.detail}" if outcome.detail else how
        return RunOutcome(
            status=Status.CRASH, reason=one_line(reason), evidence=_last_line(folder, rank=rank)
        )
    evidence = failure.evidence
    said = evidence.text if killed is None else killed.text
    if failure.kind is FailureKind.DATA:
        how = said
    status = STATUS_OF[failure.kind]
    if status is Status.KILLED and case.topology.world_size > 1:
        # Whoever ended one rank of several did not end the job: it broke.
        status = Status.CRASH
    return RunOutcome(
        status=status,
        reason=one_line(how if said == how else f"{how}: {said}"),
        evidence=one_line(str(evidence)) if evidence.file is not None else _last_line(folder, rank=rank),
    )


def log_lines(folder: Path, *, first: int = 0) -> Iterator[tuple[str, int, str]]:
    """File, number from 1 and text of each line of a run's logs; those of rank `first` come first."""
    logs = log_files(folder)
    for _, path in sorted(logs.items(), key=lambda item: (item[0] != first, item[0])):
        for number, line in enumerate(read_lines(path), 1):
            yield f"{LOGS_FOLDER}/{path.name}", number, line


def _ending(end: RankEnd | None) -> str:
    if end is None:
        return "failed"
    if end.signal is not None:
        try:
            return f"was ended by {signal.Signals(end.signal).name}"
        except ValueError:
            return f"was ended by signal {end.signal}"
    return f"ended with exit code {end.exit_code}"


def _progress(case: Case, steps: Sequence[Step]) -> str:
    accepted = sum(step.iterations for step in steps if step.kind == TRAIN)
    return f"{accepted} of {case.measure.measured_iterations} measured iterations are in the log"


def _last_line(folder: Path, *, rank: int = 0) -> str | None:
    """The last non-empty line of the rank's log."""
    path = log_files(folder).get(rank)
    if path is None:
        return None
    last = None
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            last = (number, line)
    return None if last is None else f"{LOGS_FOLDER}/{path.name}:{last[0]}: {one_line(last[1])}"


def one_line(text: str) -> str:
    """A reason or evidence as results hold it: one printable line, not too long."""
    return plain(text)[:LONGEST_REASON]
