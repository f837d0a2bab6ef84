"""What a reader must know before believing a table: a closed set of notes, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlperf.report.columns import interval_of_ratio, share_of_ceiling
from dlperf.report.comparison import Comparison, Row, Variant
from dlperf.report.numbers import factor, percent
from dlperf.report.text import Inline, Link, Text, joined, plural, say
from dlperf.results.cases import CaseFigures
from dlperf.results.query import Loaded
from dlperf.results.schema import Node
from dlperf.statistics.basic import FEWEST_RUNS_FOR_SPREAD

# With fewer, the spread of the runs is too badly known to call two cases different (docs/statistics.md).
FEWEST_RUNS_FOR_A_VERDICT = 4
# The largest coefficient of variation of a case among 91 published series (docs/evidence.md).
LARGEST_USUAL_CV = 0.074


def report_notes(loaded: Loaded, comparisons: Sequence[Comparison]) -> tuple[Text, ...]:
    """Notes on the report as a whole."""
    return tuple(_report_notes(loaded, comparisons))


def _report_notes(loaded: Loaded, comparisons: Sequence[Comparison]) -> Iterator[Text]:
    if any(figure.case.device == "cpu" for figure in loaded.figures):
        yield say(
            "Devices here are CPU cores. Such topologies prove that programs and harness are correct, never "
            "how a framework scales; nothing here predicts a GPU."
        )
    crowded = _most_crowded(loaded)
    if crowded is not None:
        devices, threads, cores = crowded
        yield say(
            "Cores were shared: up to {devices} with {threads} each ran on {cores}. Such cases show that the "
            "programs work; their speed, speedup and efficiency mean nothing else.",
            devices=plural(devices, "device"),
            threads=plural(threads, "thread"),
            cores=plural(cores, "core"),
        )
    busy = _busiest(loaded)
    if busy is not None:
        yield say(
            "The machine was not quiet: before a run its load was up to {load} on {cores}. Other processes "
            "took a part of what was measured.",
            load=f"{busy.load:.1f}",
            cores=plural(busy.cores or 0, "core"),
        )
    hardware = {comparison.hardware for comparison in comparisons}
    if len(hardware) > 1:
        yield say(
            "The results come from {count} kinds of hardware. Each has tables of its own; no ratio is taken "
            "between them.",
            count=len(hardware),
        )
    failed = sum(len(figure.failed) for figure in loaded.figures)
    missing = sum(figure.missing_runs for figure in loaded.figures)
    if failed or missing:
        yield say(
            "{failed} failed, {missing} missing: see {cells}.",
            failed=plural(failed, "run"),
            missing=plural(missing, "planned run"),
            cells=Link(say("Cells without a number"), "#gaps"),
        )


def _most_crowded(loaded: Loaded) -> tuple[int, int, int] | None:
    """Devices and threads of the case that asked most of the cores of its node, where they were too few."""
    asked = [
        (case.topology.devices_per_node, case.threads_per_device, node.cores)
        for run in loaded.results.runs
        if run.environment and (case := run.result.case).device == "cpu"
        for node in run.environment.nodes
        if node.cores and case.topology.devices_per_node * case.threads_per_device > node.cores
    ]
    return max(asked, key=lambda one: one[0] * one[1] / one[2], default=None)


def _busiest(loaded: Loaded) -> Node | None:
    """The node with the largest load before a run, where that is more than dlperf's own last run leaves."""
    nodes = [node for run in loaded.results.runs if run.environment for node in run.environment.nodes]
    busy = [node for node in nodes if node.load is not None and node.cores and node.load > 2 * node.cores]
    return max(busy, key=lambda node: node.load or 0, default=None)


def comparison_notes(
    comparison: Comparison, *, ceilings: Mapping[tuple[str, int], float]
) -> tuple[Text, ...]:
    """Notes on one table."""
    return (
        *_place_notes(comparison),
        *_runs_notes(comparison),
        *_engine_notes(comparison),
        *_ceiling_notes(comparison, ceilings),
    )


def _place_notes(comparison: Comparison) -> Iterator[Text]:
    if comparison.apart:
        yield say(
            "Not comparable with the other tables of this experiment and parallelism, and in no ratio with "
            "them. What is different here: {what}.",
            what=joined(comparison.apart, "; "),
        )
    if len(comparison.sweeps) > 1:
        yield say(
            "The cases come from {count} sweeps that did not run interleaved ({names}): a ratio between "
            "frameworks may also hold what changed on the machine in between.",
            count=len(comparison.sweeps),
            names=", ".join(sweep.name for sweep in comparison.sweeps),
        )


def _runs_notes(comparison: Comparison) -> Iterator[Text]:
    widest = max((figure.summary.cv or 0 for figure in comparison.figures if figure.summary), default=0)
    if widest > LARGEST_USUAL_CV:
        yield say(
            "Runs of one case lie far apart: CV up to {widest}, where public runs have up to 7 %. Something "
            "else may have used the machine; `dlperf doctor` looks for it.",
            widest=percent(widest, decimals=0),
        )
    fewest = min((len(figure.good) for figure in comparison.figures if figure.good), default=None)
    if fewest is None or fewest >= FEWEST_RUNS_FOR_A_VERDICT:
        return
    if fewest < FEWEST_RUNS_FOR_SPREAD:
        yield say(
            "A case with one good run has no spread and no interval; a difference from it may be noise. "
            "`dlperf run SWEEP --repeats 5` adds runs."
        )
    else:
        yield say(
            "With {fewest} good runs a case's interval is wide; `dlperf run SWEEP --repeats 5` adds runs.",
            fewest=fewest,
        )


def _engine_notes(comparison: Comparison) -> Iterator[Text]:
    odd: dict[str, None] = {}
    threads: dict[Text, None] = {}
    imported: dict[Text, None] = {}
    for (_, variant), figure in sorted(comparison.cases.items()):
        label = comparison.label(variant)
        for result in (run.result for run in figure.runs):
            if result.figures is not None and result.reason:
                odd[f"{label}, {figure.case.topology}: {result.reason}"] = None
            had, asked = result.engine.facts.get("threads"), figure.threads_per_device
            if isinstance(had, int) and asked is not None and had != asked:
                threads[say("{framework} ran with {had}", framework=label, had=had)] = None
            if result.imported is not None:
                source = result.imported
                way = say(
                    "{framework} ({dialect}, method {method})",
                    framework=label,
                    dialect=source.dialect,
                    method=source.method,
                )
                imported[way] = None
    if odd:
        yield say("Odd runs, counted all the same: {runs}.", runs="; ".join(odd))
    if threads:
        yield say(
            "Every engine was to use {asked} per device, but {which}. Do not trust a ratio to it.",
            asked=plural(comparison.sample.threads_per_device, "thread"),
            which=joined(threads, "; "),
        )
    if imported:
        yield say("Imported from logs of other programs: {which}.", which=joined(imported, "; "))


def _ceiling_notes(comparison: Comparison, ceilings: Mapping[tuple[str, int], float]) -> Iterator[Text]:
    shares = (share_of_ceiling(figure, ceilings) for figure in comparison.figures)
    above = sum(share is not None and share > 1 for share in shares)
    if above:
        yield say(
            "More model FLOP/s than the best measured matrix product in {cases}: model FLOPs count the "
            "textbook convolution, and an algorithm such as Winograd needs fewer.",
            cases=plural(above, "case"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The two best of a row; `clear` when their runs tell them apart, `judged` when both have enough runs."""

    first: Variant
    margin: float
    judged: bool
    clear: bool


def findings(comparison: Comparison) -> tuple[Text, ...]:
    """Who is fastest in how many of the rows with several figures, and in how many that cannot be told."""
    if comparison.published:
        return ()  # one number per case names no winner
    contests = [contest for row in comparison.rows if (contest := _contest(comparison, row))]
    return tuple(_sentences(comparison, contests))


def _contest(comparison: Comparison, row: Row) -> Contest | None:
    rated = [
        (figure.summary.median, variant, figure)
        for variant in comparison.variants
        if (figure := comparison.cases.get((row, variant))) is not None and figure.summary is not None
    ]
    if len(rated) < 2:  # noqa: PLR2004  a contest takes two
        return None
    rated.sort(key=lambda entry: (-entry[0], entry[1]))
    (best, variant, winner), (next_best, _, second) = rated[:2]
    judged = min(len(winner.good), len(second.good)) >= FEWEST_RUNS_FOR_A_VERDICT
    return Contest(
        first=variant, margin=best / next_best, judged=judged, clear=judged and _told_apart(winner, second)
    )


def _told_apart(winner: CaseFigures, second: CaseFigures) -> bool:
    interval = interval_of_ratio(winner, second)
    return interval is not None and interval.low > 1


def _sentences(comparison: Comparison, contests: list[Contest]) -> Iterator[Text]:
    rows = plural(len(contests), "row")
    clear = [contest for contest in contests if contest.clear]
    winners = [contest.first for contest in clear]
    for variant in sorted(set(winners), key=lambda variant: (-winners.count(variant), variant)):
        margins = sorted(contest.margin for contest in clear if contest.first == variant)
        ahead: Inline = factor(margins[0])
        if factor(margins[-1]) != ahead:
            ahead = say("{low} to {high}", low=ahead, high=factor(margins[-1]))
        yield say(
            "{framework} is the fastest in {won} of {rows}, {ahead} times the next",
            framework=comparison.label(variant),
            won=winners.count(variant),
            rows=rows,
            ahead=ahead,
        )
    alike = sum(contest.judged and not contest.clear for contest in contests)
    if alike:
        yield say("In {count} of {rows} the runs do not tell the fastest two apart", count=alike, rows=rows)
    few = sum(not contest.judged for contest in contests)
    if few:
        yield say(
            "In {count} of {rows} no framework is called the fastest: each of the fastest "
            "two would need {fewest} good runs",
            count=few,
            rows=rows,
            fewest=FEWEST_RUNS_FOR_A_VERDICT,
        )
