"""What a reader must know before believing a table: a closed set of notes, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dlperf.report.columns import interval_of_ratio
from dlperf.report.comparison import CaseKey, Comparison, Variant, case_key
from dlperf.report.numbers import factor, percent
from dlperf.report.text import Link, Text, joined, plural, say
from dlperf.results.query import Loaded
from dlperf.results.schema import Node
from dlperf.statistics.basic import FEWEST_RUNS_FOR_SPREAD

# With fewer, the spread of the runs is too badly known to call two cases different (docs/statistics.md).
FEWEST_RUNS_FOR_A_VERDICT = 4
# The largest coefficient of variation of a case among 91 published series (docs/evidence.md).
LARGEST_USUAL_CV = 0.074


def report_notes(loaded: Loaded, comparisons: Sequence[Comparison]) -> Iterator[Text]:
    """Notes on the report as a whole."""
    if any(figure.case.device == "cpu" for figure in loaded.figures):
        yield say(
            "Devices here are CPU cores. Such topologies prove that programs and harness are correct, never "
            "how a framework scales; nothing here predicts a GPU."
        )
    if (crowded := _most_crowded(loaded)) is not None:
        devices, threads, cores = crowded
        yield say(
            "Cores were shared: up to {devices} with {threads} each ran on {cores}. Such cases show that the "
            "programs work; their speed, speedup and efficiency mean nothing else.",
            devices=plural(devices, "device"),
            threads=plural(threads, "thread"),
            cores=plural(cores, "core"),
        )
    if (busy := _busiest(loaded)) is not None:
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


def comparison_notes(comparison: Comparison, *, shares: Mapping[CaseKey, float]) -> Iterator[Text]:
    """Notes on one table; `shares` are `matmul_shares`."""
    yield from _source_notes(comparison)
    yield from _runs_notes(comparison)
    yield from _engine_notes(comparison)
    above = sum(shares.get(case_key(figure), 0) > 1 for figure in comparison.figures)
    if above:
        yield say(
            "More model FLOP/s than the best measured matrix product in {cases}: model FLOPs count the "
            "textbook convolution, and an algorithm such as Winograd needs fewer.",
            cases=plural(above, "case"),
        )


def _source_notes(comparison: Comparison) -> Iterator[Text]:
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


def findings(comparison: Comparison) -> Iterator[Text]:
    """Who is fastest in how many of the rows with several figures, and in how many that cannot be told."""
    if comparison.published:
        return  # one number per case names no winner
    margins: dict[Variant, list[float]] = {}  # of the rows that a variant wins
    contests = alike = few = 0
    for row in comparison.rows:
        cells = ((variant, comparison.cases.get((row, variant))) for variant in comparison.variants)
        rated = [
            (figure.summary.median, variant, figure)
            for variant, figure in cells
            if figure is not None and figure.summary is not None
        ]
        if len(rated) < 2:  # noqa: PLR2004  a contest takes two
            continue
        (best, variant, winner), (next_best, _, second) = sorted(rated, key=lambda it: (-it[0], it[1]))[:2]
        interval = interval_of_ratio(winner, second)
        contests += 1
        if min(len(winner.good), len(second.good)) < FEWEST_RUNS_FOR_A_VERDICT:
            few += 1
        elif interval is None or interval.low <= 1:
            alike += 1
        else:
            margins.setdefault(variant, []).append(best / next_best)
    rows = plural(contests, "row")
    for variant, won in sorted(margins.items(), key=lambda item: (-len(item[1]), item[0])):
        low, high = factor(min(won)), factor(max(won))
        yield say(
            "{framework} is the fastest in {won} of {rows}, {ahead} times the next",
            framework=comparison.label(variant),
            won=len(won),
            rows=rows,
            ahead=low if low == high else say("{low} to {high}", low=low, high=high),
        )
    if alike:
        yield say("In {count} of {rows} the runs do not tell the fastest two apart", count=alike, rows=rows)
    if few:
        yield say(
            "In {count} of {rows} no framework is called the fastest: each of the fastest "
            "two would need {fewest} good runs",
            count=few,
            rows=rows,
            fewest=FEWEST_RUNS_FOR_A_VERDICT,
        )
