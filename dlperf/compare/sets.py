"""What is compared: each metric with its unit, which direction is good, and the words for a change."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from dlperf.align.certificate import Certificate, load_certificate
from dlperf.errors import UserError
from dlperf.files import read_document
from dlperf.layout import CERTIFICATE_NAMES, NOISE_PROFILE_NAME
from dlperf.model import Model, Retired
from dlperf.plan.case import Case
from dlperf.plan.plan import PlannedCase, PlanStatus
from dlperf.plan.selection import parse_pair
from dlperf.results.cases import CaseFigures
from dlperf.results.published import PREFIX
from dlperf.results.query import Loaded, load
from dlperf.results.schema import PEAKS, Status, kinds_of_hardware
from dlperf.results.store import StoredRun
from dlperf.statistics.basic import quantile
from dlperf.version import __version__
from dlperf.wording import plural

DEFAULT_MARGIN = 0.01
# Between the end of a run and the start of the next one of its sweep.
_PAUSE_BETWEEN_SESSIONS = timedelta(hours=1)
_LONGEST_RUN = 1e7  # seconds
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Verdict(StrEnum):
    """What may be said about one metric of one case."""

    SLOWER = "slower"
    FASTER = "faster"
    WORSE = "worse"  # a metric that is no speed: more memory, a lower limit
    BETTER = "better"
    SAME = "same"  # shown, not assumed: the interval lies inside the margin
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not_comparable"
    MISSING = "missing"


REGRESSIONS = frozenset({Verdict.SLOWER, Verdict.WORSE})
IMPROVEMENTS = frozenset({Verdict.FASTER, Verdict.BETTER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a run that can get better or worse; values are above 0.

    `margin` is the smallest change that counts where the user names no other, a fraction. A metric that does
    not `fail` is reported, and is a regression only for a user who names it.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    margin: float = DEFAULT_MARGIN
    speed: bool = True
    fails: bool = True

    def verdict(self, log_ratio: float) -> Verdict:
        """The word for a change of log(candidate / baseline) that counts."""
        if (log_ratio > 0) == (self.better == "higher"):
            return Verdict.FASTER if self.speed else Verdict.BETTER
        return Verdict.SLOWER if self.speed else Verdict.WORSE


SAMPLES_PER_SECOND = Metric(name="samples_per_sec", title="samples/s", unit="samples/s", better="higher")
STEP_P95 = Metric(name="step_seconds_p95", title="step p95", unit="s", better="lower", margin=0.05)
MEMORY = tuple(
    # An allocator rounds what it takes as it likes, so no change of it fails by default.
    Metric(name=name, title=title, unit="bytes", better="lower", margin=0.02, speed=False, fails=False)
    for name, title in PEAKS.items()
)
PEAK_ANONYMOUS = MEMORY[0]
# Found by what ran and what ran out of memory, not by runs: see dlperf.compare.verdicts.
LARGEST_CLASSES = Metric(
    name="max_num_classes", title="most classes", unit="classes", better="higher", margin=0.0, speed=False
)
LARGEST_BATCH = Metric(
    name="max_batch_size_per_device",
    title="largest batch",
    unit="samples per device",
    better="higher",
    margin=0.0,
    speed=False,
)

MEASURED = (SAMPLES_PER_SECOND, STEP_P95, *MEMORY)
LIMITS = (LARGEST_CLASSES, LARGEST_BATCH)
METRICS = {metric.name: metric for metric in (*MEASURED, *LIMITS)}


Alignment = Literal["aligned", "not aligned"]


class RunValues(Model):
    """A good run: its value of each metric that it has.

    `interleaved` runs of two cases of one cell with the same `session` and `repeat` were made in one block.
    """

    repeat: int
    """Number of the run, from 1."""
    session: str | None = None
    """The sweep and when it began; null: not known."""
    interleaved: bool = True
    """Whether the session's cases took turns, run by run."""
    started_at: str | None = None
    """When the processes were started, ISO 8601 in UTC; null: not known."""
    values: dict[str, float]
    """Value of each metric, by its name, in its unit."""
    before: Retired = None
    after: Retired = None

    @property
    def block(self) -> str | None:
        """Equal for runs made in one block; None where there is none."""
        return f"{self.session} r{self.repeat}" if self.session is not None and self.interleaved else None


class CaseSamples(Model):
    """A case, what it ran on, and its good runs; without one `status` and `reason` say why."""

    case: Case
    """The case."""
    hardware: str
    """What decides speed, on one line."""
    driver: str | None = None
    """Version of the GPUs' driver; null: none, or not known."""
    alignment: Alignment | None = None
    """Whether the framework was shown to compute the same function as the others; null: not proven."""
    python: str | None = None
    """Version of Python that the framework ran on, such as `3.10.13`; null: not known."""
    # Not written where it is not known.
    fp32_arithmetic: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None
    """What float32 products are computed in, `ieee` or `tf32`; missing: not known."""
    status: Status
    """`ok` with a good run, else how its runs ended; `dlperf docs results` describes each."""
    reason: str | None = None
    """One line: why there is no figure, or what is odd about it; null: nothing."""
    runs: tuple[RunValues, ...] = ()
    """The good runs."""
    failed_runs: int = 0
    """Number of runs without a figure."""
    out_of_memory: bool = False
    """Whether a run without a figure ran out of memory."""

    @property
    def ending(self) -> str:
        """Why it has no figure."""
        return self.status.value + (f": {self.reason}" if self.reason else "")

    def values(self, metric: Metric) -> dict[str, float]:
        """The metric's values by block; a run outside any block has a name of its own."""
        return {
            run.block or f"run {number}": run.values[metric.name]
            for number, run in enumerate(self.runs)
            if metric.name in run.values
        }

    @property
    def sessions(self) -> frozenset[str | None]:
        """In which its runs were made; None stands for one that is not known."""
        return frozenset(run.session for run in self.runs)

    def checked_values(self, metric: Metric) -> dict[str, float]:
        """The same; UserError where one is not above 0, which has no logarithm and is no figure."""
        values = self.values(metric)
        bad = [value for value in values.values() if not value > 0]
        if bad:
            raise UserError(
                f"{self.case.case_id}: a run's {metric.title} is {bad[0]:g}, which is no figure; "
                "look at its log (`dlperf explain`) and remove that run's folder"
            )
        return values

    def figure(self, metric: Metric) -> float | None:
        """The median over the runs."""
        values = list(self.values(metric).values())
        return quantile(values, 0.5) if values else None


class ResultSet(Model):
    """All cases of one side; `label` is what the user called it."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    label: str
    """What the user called it."""
    created_at: str | None = None
    """When it was saved, ISO 8601 in UTC; null: not saved."""
    dlperf_version: str
    """The version of dlperf that wrote the file."""
    cases: tuple[CaseSamples, ...]
    """All cases, also those without a good run."""

    def pooled(self) -> Self:
        """The same with the runs of a case put together that was run in several sessions."""
        by_case: dict[tuple[str, str], list[CaseSamples]] = {}
        for one in self.cases:
            by_case.setdefault((one.case.content_hash, one.hardware), []).append(one)
        pooled = []
        for parts in by_case.values():
            good = [part for part in parts if part.status is Status.OK]
            update: dict[str, object] = {
                "runs": tuple(run for part in parts for run in part.runs),
                "failed_runs": sum(part.failed_runs for part in parts),
                "out_of_memory": any(part.out_of_memory for part in parts),
            }
            pooled.append((good or parts)[0].model_copy(update=update))
        return self.only(pooled)

    def on_hardware_of(self, other: Self) -> Self:
        """The same with machines of the kinds of `other` named as there."""
        kinds = kinds_of_hardware(one.hardware for side in (other, self) for one in side.cases)
        return self.only(one.model_copy(update={"hardware": kinds[one.hardware]}) for one in self.cases)

    def only(self, cases: Iterable[CaseSamples]) -> Self:
        """The same with these cases alone."""
        return self.model_copy(update={"cases": tuple(cases)})


BASELINES = Path("baselines")


def read_result_set(text: str, *, inside: Path, baselines: Path = BASELINES) -> ResultSet:
    """The side that `text` names.

    A folder, a file of a baseline or `published:NAME` is taken as such; `key=value` selects the cases of
    `inside` that have the value; any other word is the name of a baseline in `baselines`, else a UserError.
    """
    path = Path(text)
    if text.startswith(PREFIX):  # it may have a case on two kinds of machine, which never match each other
        return result_set_of(load([path], strict=False), label=text)
    if path.is_dir():
        return _without_twins(result_set_of(load([path], strict=False), label=text))
    if path.is_file():
        return read_baseline(path)
    if "=" in text:
        return _without_twins(selected(result_set_of(load([inside], strict=False), label=text), text))
    saved = baselines / f"{text}.json"
    if saved.is_file():
        return read_baseline(saved)
    known = (
        ", ".join(sorted(one.stem for one in baselines.glob("*.json") if one.name != NOISE_PROFILE_NAME))
        or "none"
    )
    raise UserError(
        f"{text}: no results folder, no published:NAME, no selector such as framework=mxnet==1.9.1 and no "
        f"baseline in {baselines} (known: {known})"
    )


def _without_twins(side: ResultSet) -> ResultSet:
    """The side; UserError where it holds a case twice, from two sweeps or two kinds of machine."""
    counts = Counter(one.case.case_id for one in side.cases)
    twins = [case_id for case_id, count in counts.items() if count > 1]
    if twins:
        raise UserError(
            f"{side.label}: {plural(len(twins), 'case stands', 'cases stand')} there more than once, "
            f"such as {twins[0]}; name the folder of one sweep, run on one kind of machine"
        )
    return side


def selected(side: ResultSet, text: str) -> ResultSet:
    """The cases of a side that `key=value` (or `key=a,b`) selects; UserError where there is none."""
    _key, matches = parse_pair("selector", text)
    cases = [one for one in side.cases if matches(PlannedCase(case=one.case, status=PlanStatus.RUNNABLE))]
    if not cases:
        known = ", ".join(sorted({f"{one.case.framework}=={one.case.version}" for one in side.cases}))
        raise UserError(
            f"{text}: selects none of the {plural(len(side.cases), 'case')} there (frameworks: {known})"
        )
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


def read_baseline(path: Path) -> ResultSet:
    """A saved baseline; UserError where it is of another schema version or damaged."""
    return read_document(path, ResultSet, kind="baseline", remedy="`dlperf baseline save` writes one")


def result_set_of(loaded: Loaded, *, label: str) -> ResultSet:
    """The side that loaded results make; published ones have a single value a case.

    UserError where a result cannot be read: it would look like a case that is missing.
    """
    if loaded.results.skipped:
        raise UserError("\n".join(str(one) for one in loaded.results.skipped))
    certificates = [
        load_certificate(path)
        for sweep in loaded.results.sweeps
        for path in sorted(sweep.glob(CERTIFICATE_NAMES))
    ]
    interleaved = {sweep for sweep, plan in loaded.results.plans.items() if plan.order == "interleaved"}
    sessions: dict[Path, str] = {}
    for sweep in loaded.results.sweeps:
        sessions |= _sessions(sweep, [run for run in loaded.results.runs if run.sweep == sweep])
    cases = tuple(
        _case(
            figure,
            sessions=sessions,
            interleaved=figure.sweep in interleaved,
            certificates=certificates,
        )
        for figure in loaded.all_figures
    )
    started = [run.result.started_at for run in loaded.results.runs if run.result.started_at]
    return ResultSet(
        label=label, created_at=max(started, default=None), dlperf_version=__version__, cases=cases
    )


def _sessions(sweep: Path, runs: Iterable[StoredRun]) -> dict[Path, str]:
    """The session of each run that says when it began, by its folder: a name that no other session has."""
    started = [(start, run) for run in runs if (start := _instant(run.result.started_at)) is not None]
    name, end, sessions = "", _LONG_AGO, {}
    for start, run in sorted(started, key=itemgetter(0)):
        if start - end > _PAUSE_BETWEEN_SESSIONS:
            name = f"{sweep.resolve().name} {run.result.started_at}"
        sessions[run.folder] = name
        end = max(end, start + timedelta(seconds=min(run.result.seconds or 0.0, _LONGEST_RUN)))
    return sessions


def _instant(text: str | None) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _case(
    figure: CaseFigures,
    *,
    sessions: Mapping[Path, str],
    interleaved: bool,
    certificates: Sequence[Certificate],
) -> CaseSamples:
    good = [(run, run.result.figures) for run in figure.runs if run.result.figures is not None]
    runs = tuple(
        RunValues(
            repeat=run.result.repeat,
            session=sessions.get(run.folder),
            interleaved=interleaved,
            started_at=run.result.started_at,
            values={
                metric.name: float(value)
                for metric in MEASURED
                if (value := getattr(figures, metric.name)) is not None
            },
        )
        for run, figures in good
    )
    if not figure.runs and figure.summary is not None:
        runs = (RunValues(repeat=1, values={MEASURED[0].name: figure.summary.median}),)
    pythons = {run.environment.python for run, _ in good if run.environment}
    drivers = {node.driver for run in figure.runs if run.environment for node in run.environment.nodes}
    return CaseSamples(
        case=figure.case,
        hardware=figure.hardware,
        driver=", ".join(sorted(filter(None, drivers))) or None,
        alignment=_alignment(figure.case, certificates),
        python=", ".join(sorted(filter(None, pythons))) or None,
        fp32_arithmetic=figure.fp32_arithmetic if figure.case.device == "cuda" else None,
        status=figure.status,
        reason=figure.reason,
        runs=runs,
        failed_runs=len(figure.failed),
        out_of_memory=any(run.result.status is Status.OOM for run in figure.failed),
    )


def _alignment(case: Case, certificates: Sequence[Certificate]) -> Alignment | None:
    """What the certificates of the case's experiment prove about its framework; None: nothing."""
    name = f"{case.framework}=={case.version}"
    # The names of a pair are such as `mxnet==1.9.1 model 1n2g`.
    proofs = [
        all(
            pair.passed
            for pair in one.pairs or one.reference
            if name in {pair.first.split(" ")[0], pair.second.split(" ")[0]}
        )
        for one in certificates
        if one.experiment_hash == case.workload.content_hash
        and one.case.precision == "fp32"  # in fp16 and bf16 the bounds are too wide for a proof
        and any(participant.framework == name for participant in one.participants)
    ]
    if not proofs:
        return None
    return "aligned" if all(proofs) else "not aligned"
