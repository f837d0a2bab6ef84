"""Where a side comes from: a results folder, a saved baseline, published figures, or a part of a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf import __version__
from dlperf.align.certificate import CERTIFICATE_NAMES, load_certificate, workload_hash
from dlperf.compare.metrics import MEASURED
from dlperf.compare.side import Side, SideCase, SideRun
from dlperf.documents import read_document
from dlperf.errors import UserError
from dlperf.plan.plan import PlannedCase, PlanStatus
from dlperf.plan.selection import parse_pair
from dlperf.results.published import PREFIX
from dlperf.results.qualification import QUALIFICATION_NAME
from dlperf.results.query import load
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dlperf.align.certificate import Certificate
    from dlperf.align.certificate import Pair as AlignedPair
    from dlperf.compare.side import Alignment
    from dlperf.plan.case import Case
    from dlperf.results.figures import CaseFigures
    from dlperf.results.query import Loaded
    from dlperf.results.schema import RunFigures
    from dlperf.results.store import StoredRun

BASELINES = Path("baselines")


def read_side(text: str, *, inside: Path, baselines: Path = BASELINES) -> Side:
    """The side that `text` names.

    A folder, a file of a baseline or `published:NAME` is taken as such; `key=value` selects the cases of
    `inside` that have the value; any other word is the name of a baseline in `baselines`.

    Raises:
        UserError: it names nothing, or nothing that could be read.
    """
    path = Path(text)
    if text.startswith(PREFIX) or path.is_dir():
        return _without_twins(side_of(load([path], strict=False), label=text))
    if path.is_file():
        return read_baseline(path)
    if "=" in text:
        return _without_twins(selected(side_of(load([inside], strict=False), label=text), text))
    saved = baselines / f"{text}.json"
    if saved.is_file():
        return read_baseline(saved)
    known = (
        ", ".join(sorted(one.stem for one in baselines.glob("*.json") if one.name != QUALIFICATION_NAME))
        or "none"
    )
    raise UserError(
        f"{text}: no results folder, no published:NAME, no selector such as framework=mxnet==1.9.1 and no "
        f"baseline in {baselines} (known: {known})"
    )


def _without_twins(side: Side) -> Side:
    """The side; UserError where it holds a case twice, from two sweeps or two kinds of machine."""
    counts = Counter(one.case.case_id for one in side.cases)
    twins = [case_id for case_id, count in counts.items() if count > 1]
    if twins:
        raise UserError(
            f"{side.label}: {len(twins)} cases stand there more than once, such as {twins[0]}; "
            "name the folder of one sweep, run on one kind of machine"
        )
    return side


def selected(side: Side, text: str) -> Side:
    """The cases of a side that `key=value` (or `key=a,b`) selects; UserError where there is none."""
    _key, matches = parse_pair("selector", text)
    cases = [one for one in side.cases if matches(PlannedCase(case=one.case, status=PlanStatus.RUNNABLE))]
    if not cases:
        known = ", ".join(sorted({f"{one.case.framework}=={one.case.version}" for one in side.cases}))
        raise UserError(f"{text}: selects none of the {len(side.cases)} cases there (frameworks: {known})")
    return side.only(cases)


def compared_fields(baseline: str, candidate: str) -> tuple[str, ...]:
    """The fields that two selectors tell apart; of the same framework in two versions none.

    One selector alone tells nothing apart: the other side has cases of its own.
    """
    pairs = [
        text.partition("=")[::2] for text in (baseline, candidate) if "=" in text and not Path(text).exists()
    ]
    if len(pairs) < len((baseline, candidate)):
        return ()
    names = {value.partition("==")[0] for key, value in pairs if key == "framework"}
    return tuple({key for key, _ in pairs if key != "framework" or len(names) > 1} - {"version"})


def read_baseline(path: Path) -> Side:
    """A saved baseline; UserError where it is of another schema version or damaged."""
    return read_document(path, Side, kind="baseline", remedy="`dlperf baseline save` writes one")


def side_of(loaded: Loaded, *, label: str) -> Side:
    """The side that loaded results make; published ones have a single value a case.

    Raises:
        UserError: a result cannot be read, which would look like a case that is missing.
    """
    if loaded.results.skipped:
        raise UserError("\n".join(str(one) for one in loaded.results.skipped))
    certificates = _certificates(loaded.results.sweeps)
    interleaved = {sweep: plan.order == "interleaved" for sweep, plan in loaded.results.plans.items()}
    sessions = {sweep: _session(sweep, loaded) for sweep in loaded.results.sweeps if interleaved.get(sweep)}
    cases = tuple(
        _case(figure, session=sessions.get(figure.sweep), certificates=certificates)
        for figure in loaded.all_figures
    )
    started = [run.result.started_at for run in loaded.results.runs if run.result.started_at]
    return Side(label=label, created_at=max(started, default=None), dlperf_version=__version__, cases=cases)


def _session(sweep: Path, loaded: Loaded) -> str | None:
    """A name that no other run of the sweep has; None where no run says when it was."""
    starts = [run.result.started_at for run in loaded.results.runs if run.sweep == sweep]
    known = [start for start in starts if start is not None]
    return f"{sweep.resolve().name} {min(known)}" if known else None


def _case(figure: CaseFigures, *, session: str | None, certificates: Sequence[Certificate]) -> SideCase:
    good = [run for run in figure.runs if run.result.figures is not None]
    runs = tuple(_run(run, session=session) for run in good)
    if not figure.runs and figure.summary is not None:
        runs = (SideRun(repeat=1, values={MEASURED[0].name: figure.summary.median}),)
    pythons = {run.environment.python for run in good if run.environment and run.environment.python}
    drivers = {node.driver for run in figure.runs if run.environment for node in run.environment.nodes}
    return SideCase(
        case=figure.case,
        hardware=figure.hardware,
        driver=", ".join(sorted(one for one in drivers if one is not None)) or None,
        alignment=_alignment(figure.case, certificates),
        python=", ".join(sorted(pythons)) or None,
        status=figure.status,
        reason=figure.reason,
        runs=runs,
        failed_runs=len(figure.failed),
        out_of_memory=any(run.result.status is Status.OOM for run in figure.failed),
    )


def _run(run: StoredRun, *, session: str | None) -> SideRun:
    result = run.result
    return SideRun(
        repeat=result.repeat,
        session=session,
        started_at=result.started_at,
        values=_values(result.figures) if result.figures is not None else {},
    )


def _values(figures: RunFigures) -> dict[str, float]:
    values = {metric.name: getattr(figures, metric.name) for metric in MEASURED}
    return {name: float(value) for name, value in values.items() if value is not None}


def _certificates(sweeps: Iterable[Path]) -> list[Certificate]:
    return [load_certificate(path) for sweep in sweeps for path in sorted(sweep.glob(CERTIFICATE_NAMES))]


def _frameworks(pair: AlignedPair) -> set[str]:
    """Of a pair's names, such as `mxnet==1.9.1 model 1n2g`."""
    return {name.partition(" ")[0] for name in (pair.first, pair.second)}


def _alignment(case: Case, certificates: Sequence[Certificate]) -> Alignment | None:
    """What the certificates of the case's experiment prove about its framework; None: nothing."""
    name = f"{case.framework}=={case.version}"
    proofs = [
        all(pair.passed for pair in one.pairs if name in _frameworks(pair))
        for one in certificates
        if one.experiment_hash == workload_hash(case.workload)
        and any(contender.framework == name for contender in one.contenders)
    ]
    if not proofs:
        return None
    return "aligned" if all(proofs) else "not aligned"
