"""Runs to cases: the figure of each case, and a status with its reason where there is no figure."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from dlperf.plan.case import Case, SearchedAxis
from dlperf.plan.plan import Plan, PlannedCase, PlanStatus
from dlperf.results.extract import median_2021
from dlperf.results.schema import METHOD_2021, UNKNOWN_HARDWARE, DataReading, RunFigures, Status
from dlperf.results.store import Results, StoredRun
from dlperf.statistics.basic import Summary, quantile, summarise
from dlperf.statistics.ranking import Standing, fastest
from dlperf.wording import plural

K = TypeVar("K", bound=Hashable)
# Whose training loop: one of dlperf or of an adapter, or an original program.
Loop = Literal["own", "original"]


def data_name(case: Case) -> str:
    """`synthetic`, or the name of the data set and how it is read, such as `faces (warm)`."""
    return case.workload.data if case.data is None else f"{case.data.name} ({case.data.read})"


# Where a published figure comes from.
Reading = Literal["printed", "rounded", "chart", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """What a source tells of a figure beside its case."""

    reading: Reading = "printed"
    uncertainty: float | None = None  # samples/s, to either side; None if not known
    peak_memory_mib: int | None = None  # in use on the GPU with the most; None if not printed


class Straggler(NamedTuple):
    """A rank that the others of a case waited for in `runs` of the `measured` ones."""

    rank: int
    host: str | None
    excess: float  # of its own part of a step over the median of the others, median over the runs
    runs: int
    measured: int


@dataclass(frozen=True, kw_only=True)
class CaseFigures:
    """One case of one sweep on one kind of hardware: all its runs and the figure made of them.

    `status` is ok when at least one run is; `failed` holds the others. Without a good run `summary` is
    None, and `status`, `reason` and `evidence` are those of the first run, or of the plan where nothing ran.
    """

    case: Case
    sweep: Path
    hardware: str
    status: Status
    runs: tuple[StoredRun, ...]
    summary: Summary | None
    reason: str | None
    evidence: str | None
    planned_runs: int | None = None  # None without a plan
    not_known: frozenset[str] = frozenset()  # fields of the case that hold a placeholder
    published: Printed | None = None  # of a figure that a source printed; there are no runs

    @property
    def missing_runs(self) -> int:
        """Planned runs without a readable result."""
        return max(0, (self.planned_runs or 0) - len(self.runs))

    @property
    def threads_per_device(self) -> int | None:
        """None if not known."""
        return None if "threads_per_device" in self.not_known else self.case.threads_per_device

    @property
    def found(self) -> int | None:
        """The number at which a case with a search was measured; None without a search, or before."""
        search = self.case.search
        measured = any(run.result.status is not Status.NOT_MEASURED for run in self.runs)
        return self.case.number(search.axis) if search is not None and measured else None

    def size(self, axis: SearchedAxis) -> str:
        """The number of an axis as people read it: `96`; where it was searched for `max (96)`, or `max`.

        `?` if not known.
        """
        if axis in self.not_known:
            return "?"
        size = self.case.size(axis)
        return str(size) if size != "max" or self.found is None else f"max ({self.found})"

    @property
    def data(self) -> str | None:
        """What the network was trained on, such as `synthetic`; None if not known."""
        return None if "data" in self.not_known else data_name(self.case)

    @property
    def loop(self) -> Loop | None:
        """Whose training loop ran; None if not known, as of an imported log or a published figure."""
        if self.case.source is not None:
            return "original"
        return None if self._is_foreign else "own"

    @property
    def seed(self) -> int | None:
        """None if not known."""
        return None if "seed" in self.not_known else self.case.seed

    @property
    def measured_iterations(self) -> int | None:
        """None if not known."""
        return None if "measured_iterations" in self.not_known else self.case.measure.measured_iterations

    @cached_property
    def fp32_arithmetic(self) -> str | None:
        """What float32 products are computed in, `ieee` or `tf32`: as measured at the start of its runs.

        Where none measured it, as the case asks; None if nothing says so, as of an imported log of a GPU. In
        any precision: the classifier's logits are float32.
        """
        if self.case.device == "cpu":
            return "ieee"
        measured = {
            str(run.result.engine.facts[name])
            for run in self.runs
            for name in ("fp32_arithmetic.product", "fp32_arithmetic.convolution")
            if name in run.result.engine.facts
        }
        if measured:
            return " and ".join(sorted(measured))
        if self._is_foreign:
            return None
        return "tf32" if self.case.options.get("tf32") else "ieee"

    @property
    def gradient_dtype(self) -> str | None:
        """What gradients travel in between devices; None if not known, as of an imported log in fp16."""
        is_told = self.case.precision == "fp32" or not self._is_foreign
        return self.case.gradient_dtype if is_told else None

    @property
    def _is_foreign(self) -> bool:
        """Whether programs that are not dlperf's made the figure."""
        return self.published is not None or any(run.result.imported is not None for run in self.runs)

    @cached_property
    def good_runs(self) -> tuple[StoredRun, ...]:
        """The runs with figures, by repeat."""
        return tuple(run for run in self.runs if run.result.figures is not None)

    @cached_property
    def good(self) -> tuple[RunFigures, ...]:
        """The figures of the good runs, by repeat."""
        return tuple(run.result.figures for run in self.runs if run.result.figures is not None)

    @property
    def interference(self) -> float | None:
        """The largest share of a run's CPU time that other work took; None if none was measured."""
        measured = (run.result.interference for run in self.runs)
        return max((found.share for found in measured if found is not None), default=None)

    @cached_property
    def straggler(self) -> Straggler | None:
        """The rank that was a straggler in most of the runs that measured it; None if there is none."""
        measured = [times for run in self.runs if (times := run.result.rank_times) is not None]
        named = Counter((times.slowest_rank, times.host) for times in measured if times.is_straggler)
        if not named:
            return None
        ((rank, host), runs), *_ = named.most_common(1)
        if 2 * runs <= len(measured):
            return None
        excesses = [times.excess for times in measured if (times.slowest_rank, times.host) == (rank, host)]
        return Straggler(rank, host, quantile(excesses, 0.5), runs, len(measured))

    @property
    def iterations_per_line(self) -> int | None:
        """How many iterations a line of the original program is an average of; None for our own loops."""
        if self.case.source is None:
            return None
        told = (run.result.engine.facts.get("averaged_over_iterations") for run in self.runs)
        return max((count for count in told if type(count) is int), default=None)

    @cached_property
    def readings(self) -> tuple[DataReading, ...]:
        """How the good runs read their data set, of those that measured it."""
        return tuple(run.result.reading for run in self.good_runs if run.result.reading is not None)

    @property
    def data_wait_share(self) -> float | None:
        """Share of the measured time in which the run waited for data; the median over the good runs."""
        return _median(reading.wait_share for reading in self.readings)

    @property
    def data_bytes_per_second(self) -> float | None:
        """Bytes per second that all ranks read; the median over the good runs."""
        return _median(reading.bytes_per_second for reading in self.readings)

    @property
    def resident_shares(self) -> tuple[float, ...]:
        """What share of the files lay in the page cache before each good run, smallest first."""
        shares = (reading.resident_share for reading in self.readings)
        return tuple(sorted(share for share in shares if share is not None))

    @property
    def failed(self) -> tuple[StoredRun, ...]:
        """The runs without figures, by repeat."""
        return tuple(run for run in self.runs if run.result.figures is None)

    @property
    def step_seconds_median(self) -> float | None:
        """Median over the good runs of their median step."""
        return _median(run.step_seconds_median for run in self.good)

    @property
    def step_seconds_p95(self) -> float | None:
        """Median over the good runs of their 95th percentile."""
        return _median(run.step_seconds_p95 for run in self.good)

    @cached_property
    def peaks(self) -> dict[str, int]:
        """The largest peak of any rank in any good run, by the names of `PEAKS` that were measured."""
        if self.published is not None and self.published.peak_memory_mib is not None:
            return {"peak_device_bytes": self.published.peak_memory_mib << 20}
        measured = [run.peaks for run in self.good]
        return {name: max(peaks.get(name, 0) for peaks in measured) for peaks in measured for name in peaks}

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds of a profiled step by part, each the median over the good runs that report it."""
        reported = [run.result.engine.phase_seconds for run in self.good_runs]
        names = dict.fromkeys(name for seconds in reported for name in seconds)
        return {
            name: quantile([phases[name] for phases in reported if name in phases], 0.5) for name in names
        }

    @property
    def model_flops_per_second(self) -> float | None:
        """Model FLOPs of a training sample x samples/s: what the model needs, not what was executed."""
        cost = self.good_runs[0].result.engine.training_flops_per_sample if self.good_runs else None
        return cost * self.summary.median if cost is not None and self.summary is not None else None

    @property
    def matmul_flops_per_second(self) -> float | None:
        """The best rate of a large matrix product that any run of this case measured on one device."""
        rates = (run.result.engine.matmul_flops_per_second for run in self.runs)
        return max((rate for rate in rates if rate is not None), default=None)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return quantile(known, 0.5) if known else None


def case_figures(results: Results) -> tuple[CaseFigures, ...]:
    """The figures of every case, one per sweep and kind of hardware, in the order of `sort_key`.

    Planned cases without a run come out with the plan's status and reason.
    """
    hardware = _hardware_of_sweeps(results)
    groups: dict[tuple[Path, str, str], list[StoredRun]] = {}
    for case, runs in groupby(results.runs, key=lambda run: run.result.case):
        content_hash = case.content_hash  # computed once for consecutive repeats
        for run in runs:
            groups.setdefault((run.sweep, content_hash, _hardware_of(run, hardware)), []).append(run)
    planned = {
        (sweep, item.case.content_hash): (item, plan.repeats if item.status is PlanStatus.RUNNABLE else 0)
        for sweep, plan in results.plans.items()
        for item in plan.cases
    }
    figures = [
        _from_runs(runs, hardware=kind, planned_runs=planned.get((sweep, content_hash), (None, None))[1])
        for (sweep, content_hash, kind), runs in groups.items()
    ]
    ran = {(sweep, content_hash) for sweep, content_hash, _ in groups}
    figures += [
        _from_plan(item, sweep=sweep, hardware=hardware.get(sweep, UNKNOWN_HARDWARE), planned_runs=runs)
        for (sweep, content_hash), (item, runs) in planned.items()
        if (sweep, content_hash) not in ran
    ]
    return tuple(sorted(figures, key=sort_key))


def planned_figures(plan: Plan) -> tuple[CaseFigures, ...]:
    """The cases that a plan would run, as they stand before their first run."""
    return tuple(
        _from_plan(item, sweep=Path(plan.sweep), hardware=str(plan.machine), planned_runs=plan.repeats)
        for item in plan.cases
        if item.status is PlanStatus.RUNNABLE
    )


def sort_key(figure: CaseFigures) -> tuple[object, ...]:
    """Experiment, parallelism, the row of a table from left to right, framework; the hash breaks ties."""
    case = figure.case
    return (
        case.workload.experiment,
        case.parallelism,
        figure.hardware,
        "" if case.data is None else data_name(case),
        case.source is not None,
        case.topology.nodes,
        case.topology.devices_per_node,
        case.batch_size_per_device,
        case.num_classes,
        case.precision,
        case.sample_ratio or 0.0,
        case.threads_per_device,
        case.framework,
        case.version,
        case.content_hash,
        str(figure.sweep),
    )


def _from_runs(runs: Sequence[StoredRun], *, hardware: str, planned_runs: int | None) -> CaseFigures:
    ordered = tuple(sorted(runs, key=lambda run: (run.result.repeat, str(run.folder))))
    rates = [run.result.figures.samples_per_sec for run in ordered if run.result.figures is not None]
    odd = (run.result for run in ordered if run.result.reason)
    telling = next(odd, ordered[0].result) if rates else ordered[0].result
    return CaseFigures(
        case=ordered[0].result.case,
        sweep=ordered[0].sweep,
        hardware=hardware,
        status=Status.OK if rates else ordered[0].result.status,
        runs=ordered,
        summary=_summary(ordered, rates) if rates else None,
        reason=telling.reason,
        evidence=telling.evidence,
        planned_runs=planned_runs,
        not_known=frozenset(name for run in ordered for name in run.result.not_known),
    )


def _summary(runs: Sequence[StoredRun], rates: Sequence[float]) -> Summary:
    summary = summarise(rates)
    if all(run.result.method == METHOD_2021 for run in runs):
        return replace(summary, median=median_2021(rates))
    return summary


def _hardware_of_sweeps(results: Results) -> dict[Path, str]:
    """The hardware of each sweep whose runs all used the same; a case without a run would have too."""
    found: dict[Path, set[str]] = {}
    for run in results.runs:
        if run.environment is not None:
            found.setdefault(run.sweep, set()).add(run.hardware)
    return {sweep: kinds.pop() for sweep, kinds in found.items() if len(kinds) == 1}


def _hardware_of(run: StoredRun, of_sweeps: Mapping[Path, str]) -> str:
    """Its own; a run that never started has none and counts with the others of its sweep."""
    return run.hardware if run.environment is not None else of_sweeps.get(run.sweep, UNKNOWN_HARDWARE)


NOT_YET = "planned and not run yet; `dlperf run` goes on with the sweep"


def _from_plan(item: PlannedCase, *, sweep: Path, hardware: str, planned_runs: int) -> CaseFigures:
    """A case without a run: not run yet, excluded, unavailable or unsupported."""
    reason = item.reason or "no reason given"
    if item.status is PlanStatus.EXCLUDED:
        reason = f"excluded: {reason}"
    return CaseFigures(
        case=item.case,
        sweep=sweep,
        hardware=hardware,
        status=Status.UNSUPPORTED if item.status is PlanStatus.UNSUPPORTED else Status.NOT_MEASURED,
        runs=(),
        summary=None,
        reason=NOT_YET if item.status is PlanStatus.RUNNABLE else reason,
        evidence=None,
        planned_runs=planned_runs,
    )


def speedups(figures: Sequence[CaseFigures]) -> tuple[float | None, ...]:
    """Each case's samples/s over that of 1n1g, all else equal; None without one of the two.

    Where a sweep has several cases of 1n1g that differ in threads alone, that with the case's own is taken.
    """
    keys = [(figure.sweep, comparable(figure, leaving_out=("topology",))) for figure in figures]
    singles: dict[Hashable, dict[int, float]] = {}
    for key, figure in zip(keys, figures, strict=True):
        if figure.summary is not None and figure.case.topology.world_size == 1:
            singles.setdefault(key, {})[figure.case.threads_per_device] = figure.summary.median
    return tuple(_speedup(figure, singles.get(key, {})) for key, figure in zip(keys, figures, strict=True))


def _speedup(figure: CaseFigures, by_threads: Mapping[int, float]) -> float | None:
    if figure.summary is None:
        return None
    alone = next(iter(by_threads.values())) if len(by_threads) == 1 else None
    single = by_threads.get(figure.case.threads_per_device, alone)
    return figure.summary.median / single if single is not None else None


def matmul_shares(figures: Sequence[CaseFigures]) -> tuple[float | None, ...]:
    """Model FLOP/s over the best rate of a large matrix product on as many devices; None if not known.

    Best is that of any engine with the same arithmetic, on CPU with as many threads. The product was of
    float32: of a case in another precision it says nothing.
    """
    best: dict[Hashable, float] = {}
    for figure in figures:
        key = _matmul_key(figure)
        best[key] = max(figure.matmul_flops_per_second or 0.0, best.get(key, 0.0))
    return tuple(_matmul_share(figure, best[_matmul_key(figure)]) for figure in figures)


def _matmul_share(figure: CaseFigures, best: float) -> float | None:
    flops, ceiling = figure.model_flops_per_second, best * figure.case.topology.world_size
    return flops / ceiling if figure.case.precision == "fp32" and flops is not None and ceiling else None


def _matmul_key(figure: CaseFigures) -> Hashable:
    threads = None if figure.case.device == "cuda" else figure.threads_per_device
    return figure.hardware, figure.fp32_arithmetic, threads


# What a table of a report has as rows, in the order of its columns, and what as columns; all else is the
# same in one table.
ROW_FIELDS = ("topology", "batch_size_per_device", "num_classes", "precision", "sample_ratio")
VARIANT_FIELDS = ("framework", "version", "options", "source")


def comparable(figure: CaseFigures, *, leaving_out: Iterable[str]) -> tuple[object, ...]:
    """Equal for figures between which a ratio may be taken, if `leaving_out` is all that they may differ in.

    Those are fields of the case; hardware, arithmetic and what is not known of a case are never left out.
    Whoever leaves out `source` decides by itself whether original programs and own loops may meet.
    """
    not_known = figure.not_known - (_FREE_ON_CUDA if figure.case.device == "cuda" else set())
    case = canonical(figure.case, leaving_out=leaving_out)
    arithmetic = (figure.fp32_arithmetic, figure.gradient_dtype)
    return (figure.hardware, figure.published is not None, arithmetic, not_known, case)


# The CPU's threads only feed a GPU: they are stated, and no ground to keep two cases apart.
_FREE_ON_CUDA = frozenset({"threads_per_device"})


def canonical(case: Case, *, leaving_out: Iterable[str]) -> str:
    """The case as canonical JSON without some of its fields: equal for cases that differ in those alone.

    On CUDA the CPU's threads are always left out, and so is where a data set or a source lies.
    """
    left_out: dict[str, bool | set[str]] = {"data": {"path"}, "source": {"commit"}}
    left_out |= dict.fromkeys((*leaving_out, *(_FREE_ON_CUDA if case.device == "cuda" else ())), True)
    content: Mapping[str, object] = case.model_dump(mode="json", exclude=left_out)
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def cell_name(case: Case) -> str:
    """Such as `y1_emore data 1n1g b128 c85742 fp32`; `bmax` where the largest was searched for.

    The data set and an original program follow where there are any.
    """
    ratio = f"{case.sample_ratio:g}" if case.sample_ratio is not None else ""
    return (
        f"{case.workload.experiment} {case.parallelism}{ratio} {case.topology} "
        f"b{case.size('batch_size_per_device')} c{case.size('num_classes')} {case.precision}"
        + ("" if case.gradient_dtype == "float32" else f" {case.gradient_dtype} gradients")
        + ("" if case.data is None else f" {case.data.name} {case.data.read}")
        + ("" if case.source is None else " original program")
    )


def standing(figures: Mapping[K, CaseFigures]) -> Standing[K] | None:
    """Who is the fastest of the cases of one row, where that can be told: `statistics.ranking.fastest`.

    A case that cannot train here (unsupported, out of memory, excluded or not available) takes no part; one
    that failed, was disturbed or was not run yet does. None with fewer than two that take part, and for
    published figures, which have no runs.
    """
    if any(figure.published for figure in figures.values()):
        return None
    return fastest(
        {
            key: [run.samples_per_sec for run in figure.good]
            for key, figure in figures.items()
            if figure.good
            or not (figure.status in {Status.UNSUPPORTED, Status.OOM} or figure.planned_runs == 0)
        }
    )


def standings(figures: Iterable[CaseFigures]) -> Iterator[tuple[CaseFigures, Standing[str]]]:
    """For each row with several cases one of them, and who is the fastest.

    The winner is named by framework and version, and by its options where the row holds that version twice.
    The cases of a row come from one sweep and one kind of hardware and differ in nothing but these, on CUDA
    also in threads. Original programs and own loops have rows of their own.
    """
    rows: dict[tuple[object, ...], list[CaseFigures]] = {}
    for figure in figures:
        search = figure.case.search
        searched = (search.axis,) if search is not None else ()
        content = comparable(figure, leaving_out=(*VARIANT_FIELDS, "search", *searched))
        rows.setdefault((figure.sweep, searched, figure.case.source is not None, content), []).append(figure)
    for row in rows.values():
        found = standing(_by_name(row))
        if found is not None:
            yield row[0], found


def _by_name(row: Sequence[CaseFigures]) -> dict[str, CaseFigures]:
    versions = Counter((figure.case.framework, figure.case.version) for figure in row)
    vary = len({figure.case.threads_per_device for figure in row}) > 1
    names = {}
    for figure in row:
        case = figure.case
        options = {**case.options, **({"threads_per_device": case.threads_per_device} if vary else {})}
        words = ", ".join(f"{name}={value}" for name, value in sorted(options.items())) or "no options"
        is_alone = versions[case.framework, case.version] == 1
        names[f"{case.framework} {case.version}" + ("" if is_alone else f" ({words})")] = figure
    return names


def devices_of(figure: CaseFigures) -> tuple[int, str]:
    """How many of what a case ran on in all: `2, "CPU core"`; `1, "NVIDIA H200"`.

    Where devices shared cores, or where their threads are not known, these are CPU devices.
    """
    topology, threads = figure.case.topology, figure.threads_per_device
    environments = (run.environment for run in figure.runs if run.environment is not None)
    nodes = [node for environment in environments for node in environment.nodes]
    if figure.case.device != "cpu":
        names = sorted({name for node in nodes for name in node.accelerators})
        return topology.world_size, " or ".join(names) or "GPU"
    cores = min((node.cores for node in nodes if node.cores), default=None)
    if threads is None or (cores is not None and topology.devices_per_node * threads > cores):
        return topology.world_size, "CPU device"
    return topology.world_size * threads, "CPU core"


def devices_in_words(figure: CaseFigures) -> str:
    """What a case ran on in all: `2 CPU cores`, `one NVIDIA H200`, `8 x Tesla V100`."""
    count, name = devices_of(figure)
    if figure.case.device == "cpu":
        return plural(count, name)
    return f"one {name}" if count == 1 else f"{count} x {name}"
