"""How a figure came about: which lines of which log, by which rule, left out what, and divided how."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from dlperf.errors import UserError
from dlperf.logs.events import OTHER, TRAIN, WARMUP, Step
from dlperf.results.cases import CaseFigures
from dlperf.results.extract import PAUSE, UNSTEADY, extract
from dlperf.results.schema import METHOD_2021, Imported, RunResult
from dlperf.results.store import StoredRun

_KINDS = {
    WARMUP: "warm-up",
    OTHER: "outside the method's window",
    UNSTEADY: "before the steady state",
    PAUSE: "a pause",
}
_FORMULA_2021 = "mean of rates, rounded to 2 decimals"
# Twice made from the same log, a figure is the same to the last bit; another dlperf may round another way.
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Facts under a title: a name and a text each, in order."""

    title: str
    facts: tuple[tuple[str, str], ...]


def explain(figure: CaseFigures) -> Iterator[Section]:
    """The case first, then each of its runs, with its environment where that differs from the run's before.

    What cannot be read any more is said, not raised.
    """
    yield Section(title=figure.case.case_id, facts=tuple(_of_case(figure)))
    before: tuple[tuple[str, str], ...] = ()
    for run in figure.runs:
        environment = tuple(_environment(run))
        facts = (*_of_run(run), *(environment if environment != before else ()))
        yield Section(title=f"run {run.result.repeat}", facts=facts)
        before = environment


def _of_case(figure: CaseFigures) -> Iterator[tuple[str, str]]:
    yield "results", str(figure.sweep)
    yield "hardware", figure.hardware
    yield "status", figure.status.value
    if figure.reason:
        yield "reason", figure.reason
    if figure.evidence:
        yield "evidence", figure.evidence
    summary = figure.summary
    if summary is None:
        return
    rates = [run.samples_per_sec for run in figure.good]
    if rates:
        listed = ", ".join(f"{rate:.2f}" for rate in rates)
        yield (
            "figure",
            f"median of {len(rates)} run{'s' * (len(rates) > 1)} ({listed}) = {summary.median:.2f} samples/s",
        )
    else:
        yield "figure", f"{summary.median:.2f} samples/s, as published"
    if figure.failed:
        yield (
            "not counted",
            ", ".join(f"run {run.result.repeat}: {run.result.status.value}" for run in figure.failed),
        )


def _of_run(run: StoredRun) -> Iterator[tuple[str, str]]:
    result = run.result
    yield "folder", str(run.folder)
    yield "status", result.status.value
    if result.reason:
        yield "reason", result.reason
    if result.evidence:
        yield "evidence", result.evidence
    if result.imported is not None:
        yield from _origin(result.imported)
        yield "method", result.method
    if result.not_known:
        yield "not known", f"{', '.join(result.not_known)}: the case holds placeholders"
    try:
        yield from _window(run)
    except (UserError, OSError) as error:
        yield "log", f"cannot be read again: {error}"


def _origin(imported: Imported) -> Iterator[tuple[str, str]]:
    where = f", lines {imported.lines[0]} to {imported.lines[1]}" if imported.lines else ""
    yield "imported from", f"{imported.source}, run {imported.run + 1}{where}, sha256 {imported.sha256}"
    yield "original", imported.log
    yield "dialect", imported.dialect


def _window(run: StoredRun) -> Iterator[tuple[str, str]]:
    """The steps and the arithmetic, made again from the log."""
    extracted = extract(run.folder)
    yield "log", "logs/rank0.log"
    used = [step for step in extracted.steps if step.kind == TRAIN]
    yield "rule", extracted.rule
    yield "used", _span(used) if used else "no record"
    for kind, steps in groupby(extracted.steps, lambda step: step.kind):
        if kind != TRAIN:
            yield "left out", f"{_span(list(steps))}: {_KINDS.get(kind, kind)}"
    if extracted.result.figures is not None:
        rate = extracted.result.figures.samples_per_sec
        if extracted.result.method == METHOD_2021:
            yield "formula", f"{_FORMULA_2021}, of {len(used)} rates = {rate:.2f} samples/s"
        else:
            samples, seconds = sum(step.samples for step in used), math.fsum(step.seconds for step in used)
            yield "formula", f"samples / seconds = {samples} / {seconds:.6f} = {rate:.4f} samples/s"
    yield from _difference(run.result, extracted.result)


def _span(steps: Sequence[Step]) -> str:
    """`100 records: steps 20 to 119, lines 35 to 134`."""
    first, last = steps[0], steps[-1]
    if len(steps) == 1:
        return f"1 record: step {first.step}, line {first.line}"
    return f"{len(steps)} records: steps {first.step} to {last.step}, lines {first.line} to {last.line}"


def _difference(stored: RunResult, again: RunResult) -> Iterator[tuple[str, str]]:
    """Whether the log still gives what result.json says."""
    if stored.status is not again.status:
        yield "changed", f"result.json says {stored.status.value}, the log now gives {again.status.value}"
    elif stored.figures is not None and again.figures is not None:
        then, now = stored.figures.samples_per_sec, again.figures.samples_per_sec
        if not math.isclose(then, now, rel_tol=_SAME):
            yield "changed", f"result.json says {then:.4f} samples/s, the log now gives {now:.4f}"


def _environment(run: StoredRun) -> Iterator[tuple[str, str]]:
    facts = run.result.engine.facts
    if facts:
        yield "engine", ", ".join(f"{name} {value}" for name, value in facts.items())
    if run.environment is None:
        yield "environment", "not known"
        return
    for node in run.environment.nodes:
        yield (
            f"node {node.host}",
            ", ".join(part for part in (node.hardware, node.system, node.kernel) if part),
        )
    # environment.json has all: PATH is long, and the port is another in each run.
    variables = sorted(run.environment.variables.keys() - {"PATH", "DLPERF_MASTER_PORT"})
    if variables:
        yield "variables", " ".join(f"{name}={run.environment.variables[name]}" for name in variables)
