"""What a reader must know before believing a table: a closed set of notes, each with what to do about it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from dlperf.report.comparison import DATA, LOOP, CaseKey, Comparison, Variant, case_key, reading_words
from dlperf.report.loops import residency_remark, resident_words
from dlperf.report.numbers import NOT_KNOWN, factor, percent, reach
from dlperf.report.telemetry import telemetry_notes
from dlperf.report.text import Inline, Link, Text, joined, plural, say
from dlperf.results.cases import CaseFigures, devices_of, standing
from dlperf.results.query import Loaded
from dlperf.results.schema import Node, Status
from dlperf.statistics.basic import FEWEST_RUNS, FEWEST_RUNS_FOR_INTERVAL, quantile
from dlperf.statistics.ranking import Standing

# The largest coefficient of variation of a case among 91 published series (docs/evidence.md).
LARGEST_USUAL_CV = 0.074
# Waiting for data is named where it takes more of the time than this.
LARGEST_UNNAMED_WAIT = 0.05


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
    yield from _slow_nodes(loaded)
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
            "{failed} without a figure, {missing} missing: see {cells}.",
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
    """The node with the largest load before a run, where that is more than dlperf's own last run leaves.

    Only of runs that did not measure what other work took from them.
    """
    unmeasured = (run for run in loaded.results.runs if run.result.interference is None)
    nodes = [node for run in unmeasured if run.environment for node in run.environment.nodes]
    busy = [node for node in nodes if node.load is not None and node.cores and node.load > 2 * node.cores]
    return max(busy, key=lambda node: node.load or 0, default=None)


def _slow_nodes(loaded: Loaded) -> Iterator[Text]:
    """Nodes that held the straggler of several cases."""
    measured = [
        figure
        for figure in loaded.figures
        if figure.case.topology.nodes > 1 and any(run.result.rank_times for run in figure.runs)
    ]
    excesses: dict[str, list[float]] = {}
    for figure in measured:
        if figure.straggler is not None and figure.straggler.host is not None:
            excesses.setdefault(figure.straggler.host, []).append(figure.straggler.excess)
    for host, found in sorted(excesses.items()):
        if len(found) > 1:
            yield say(
                "Node {host} held the slowest rank in {count} of {cases} on several nodes: {excess} slower "
                "than the median of the others.",
                host=host,
                count=len(found),
                cases=plural(len(measured), "case"),
                excess=percent(quantile(found, 0.5), decimals=0),
            )


def comparison_notes(comparison: Comparison, *, shares: Mapping[CaseKey, float | None]) -> Iterator[Text]:
    """Notes on one table; `shares` are `matmul_shares`."""
    yield from _reading_notes(comparison)
    yield from _source_notes(comparison)
    yield from _loop_notes(comparison)
    yield from _data_notes(comparison)
    yield from _runs_notes(comparison)
    yield from _straggler_notes(comparison)
    yield from telemetry_notes(comparison)
    yield from _memory_notes(comparison)
    yield from _engine_notes(comparison)
    yield from _slow_engines(comparison)
    yield from _cautions(comparison)
    yield from _loss_scales(comparison)
    above = sum((shares.get(case_key(figure)) or 0) > 1 for figure in comparison.figures)
    if above:
        yield say(
            "More model FLOP/s than the best measured matrix product in {cases}: model FLOPs count the "
            "textbook convolution, and an algorithm such as Winograd needs fewer.",
            cases=plural(above, "case"),
        )


def _listing(note: Text, parts: Iterable[Inline], separator: str = ", ") -> Iterator[Text]:
    """The note with its {which}, the parts, each once; nothing without any."""
    different = dict.fromkeys(parts)
    if different:
        yield Text(note.message, (*note.values, ("which", joined(different, separator))))


def _reading_notes(comparison: Comparison) -> Iterator[Text]:
    """Where published figures do not stand in their source as they stand here."""
    read: dict[Text, dict[Inline, None]] = {}
    for _, label, figure in comparison.cells():
        words = reading_words(figure.published) if figure.published and figure.summary else None
        if words is not None:
            read.setdefault(words, {})[label] = None
    ways = (say("{framework}: {how}", framework=joined(labels), how=how) for how, labels in read.items())
    yield from _listing(say("How figures were read: {which}."), ways, "; ")


def _source_notes(comparison: Comparison) -> Iterator[Text]:
    if {LOOP, DATA} & {dict(text.values)["what"] for text in comparison.apart}:
        yield say(
            "Not comparable with the other tables of this experiment and parallelism. What is different "
            'here: {what}. Ratios between loops stand under "Original and own loop", ratios between data '
            'under "Input tax".',
            what=joined(comparison.apart, "; "),
        )
    elif comparison.apart:
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


def _loop_notes(comparison: Comparison) -> Iterator[Text]:
    return _listing(
        say(
            "A line of an original program is a mean over several iterations ({which}). Times of a step are "
            "those of such means: their spread is smaller than that of single iterations."
        ),
        (
            say("{framework}: {count}", framework=label, count=count)
            for _, label, figure in comparison.cells()
            if (count := figure.iterations_per_line or 1) > 1
        ),
    )


def _data_notes(comparison: Comparison) -> Iterator[Text]:
    waiting: list[Text] = []
    odd: dict[Text, dict[Text, None]] = {}
    for row, label, figure in comparison.cells():
        name = say("{framework} on {topology}", framework=label, topology=row.topology)
        share = figure.data_wait_share
        if share is not None and share > LARGEST_UNNAMED_WAIT:
            waiting.append(say("{what}: {value}", what=name, value=percent(share, decimals=0)))
        for remark in residency_remark(figure):
            told = say("{what}: {value}", what=name, value=resident_words(figure))
            odd.setdefault(remark, {})[told] = None
    yield from _listing(
        say(
            "Reading held the training back: ranks waited for data more than {limit} of the time ({which}).",
            limit=percent(LARGEST_UNNAMED_WAIT, decimals=0),
        ),
        waiting,
    )
    yield from _listing(
        say("Nothing shows that the page cache held what the sweep asked for (share of its bytes): {which}."),
        (say("{remark} ({cases})", remark=remark, cases=joined(cases)) for remark, cases in odd.items()),
        "; ",
    )


def _runs_notes(comparison: Comparison) -> Iterator[Text]:
    yield from _listing(
        say("Other work took CPU time from the ranks of these runs, which have no figure: {which}."),
        (
            say(
                "{framework}: {runs} (up to {share})",
                framework=comparison.label(variant),
                runs=plural(len(shares), "run"),
                share=percent(max(shares), decimals=0),
            )
            for variant, shares in sorted(_disturbed(comparison).items())
        ),
    )
    widest = max((figure.summary.cv or 0 for figure in comparison.figures if figure.summary), default=0)
    if widest > LARGEST_USUAL_CV:
        yield say(
            "Runs of one case lie far apart: CV up to {widest}, where public runs have up to 7 %. Something "
            "else may have used the machine; `dlperf doctor` looks for it.",
            widest=percent(widest, decimals=0),
        )
    fewest = min((len(figure.good) for figure in comparison.figures if figure.good), default=None)
    if fewest is None or fewest >= FEWEST_RUNS:
        return
    if fewest < FEWEST_RUNS_FOR_INTERVAL:
        yield say(
            "A case with fewer than {count} good runs has no interval; a difference from it may be noise. "
            "`dlperf run SWEEP --repeats 5` adds runs.",
            count=FEWEST_RUNS_FOR_INTERVAL,
        )
    else:
        yield say(
            "With {fewest} good runs a case's interval is wide; `dlperf run SWEEP --repeats 5` adds runs.",
            fewest=fewest,
        )


def _disturbed(comparison: Comparison) -> dict[Variant, list[float]]:
    """The share of CPU time that each disturbed run lost to other work, by variant."""
    shares: dict[Variant, list[float]] = {}
    for (_, variant), figure in comparison.cases.items():
        for run in figure.failed:
            interference = run.result.interference
            if run.result.status is Status.DISTURBED and interference is not None:
                shares.setdefault(variant, []).append(interference.share)
    return shares


def _straggler_notes(comparison: Comparison) -> Iterator[Text]:
    return _listing(
        say("Ranks waited for one that was slower than the median of the others: {which}."),
        (
            say(
                "{framework} on {topology}, batch {size}: rank {rank} on {host}, {excess} slower in {runs} "
                "of {measured}",
                framework=label,
                topology=row.topology,
                size=figure.size("batch_size_per_device"),
                rank=straggler.rank,
                host=straggler.host or NOT_KNOWN,
                excess=percent(straggler.excess, decimals=0),
                runs=straggler.runs,
                measured=plural(straggler.measured, "run"),
            )
            for row, label, figure in comparison.cells()
            if (straggler := figure.straggler) is not None
        ),
        "; ",
    )


def _memory_notes(comparison: Comparison) -> Iterator[Text]:
    runs = (run.result.peak_unknown for figure in comparison.figures for run in figure.runs)
    reasons = sorted({reason for reason in runs if reason is not None})
    return _listing(say("Peak memory was not measured in some runs: {which}."), reasons, "; ")


def _engine_notes(comparison: Comparison) -> Iterator[Text]:
    """What the training programs of the runs say of themselves, and what is odd about it."""
    odd: list[Inline] = []
    threads: list[Inline] = []
    imported: list[Inline] = []
    for _, label, figure in comparison.cells():
        for result in (run.result for run in figure.runs):
            if result.figures is not None and result.reason:
                odd.append(f"{label}, {figure.case.topology}: {result.reason}")
            had, asked = result.engine.facts.get("threads"), figure.threads_per_device
            on_cpu = figure.case.device == "cpu"  # on a GPU threads keep nothing apart
            if on_cpu and isinstance(had, int) and asked is not None and had != asked:
                threads.append(say("{framework} ran with {had}", framework=label, had=had))
            if result.imported is not None:
                way = say(
                    "{framework} ({dialect}, method {method})",
                    framework=label,
                    dialect=result.imported.dialect,
                    method=result.imported.method,
                )
                imported.append(way)
    yield from _listing(say("Odd runs, counted all the same: {which}."), odd, "; ")
    yield from _listing(
        say(
            "Every engine was to use {asked} per device, but {which}. Do not trust a ratio to it.",
            asked=plural(comparison.sample.threads_per_device, "thread"),
        ),
        threads,
        "; ",
    )
    yield from _listing(say("Imported from logs of other programs: {which}."), imported, "; ")


def _cautions(comparison: Comparison) -> Iterator[Text]:
    """What training programs say of runs that do not compute what their case says."""
    cautions = (
        joined((label, str(caution)), ": ")
        for _, label, figure in comparison.cells()
        for run in figure.runs
        if (caution := run.result.engine.facts.get("caution")) is not None
    )
    return _listing(say("What the training programs warn of: {which}."), cautions, "; ")


def _loss_scales(comparison: Comparison) -> Iterator[Text]:
    """As each engine reports it; a static one is not checked for overflow, a dynamic one skips steps."""
    scales = (
        f"{label} {run.result.engine.facts['loss_scale']}"
        for _, label, figure in comparison.cells()
        for run in figure.runs
        if figure.case.precision == "fp16" and "loss_scale" in run.result.engine.facts
    )
    return _listing(say("Loss scale in fp16: {which}."), scales, "; ")


# Why an engine is slow at a network on a device, where that was measured and no setting helps.
_SLOW: Mapping[tuple[str, str, str], Text] = {
    ("oneflow", "cpu", "mobilefacenet"): say(
        "OneFlow's kernels for CPU are slow, most of all that of depthwise convolutions: 5 % of this "
        "network's arithmetic, a third of its step. No setting helps, and it says nothing about a GPU: see "
        'docs/engines/oneflow.md, "Speed on CPU".'
    ),
}


def _slow_engines(comparison: Comparison) -> Iterator[Text]:
    measured = (figure.case for figure in comparison.figures if figure.summary is not None)
    reasons = (_SLOW.get((case.framework, case.device, case.workload.network)) for case in measured)
    yield from dict.fromkeys(reason for reason in reasons if reason is not None)


RowFigures = Mapping[Variant, CaseFigures]  # the cases of a row
Contest = tuple[RowFigures, Standing[Variant]]  # and who of them is the fastest
Where = Callable[[Sequence[RowFigures]], dict[str, Inline]]


def findings(comparison: Comparison) -> Iterator[Text]:
    """Who is the fastest in how many rows and on what; for the other rows what keeps that from being told."""
    contests: list[Contest] = []
    for row in comparison.rows:
        cells = {variant: comparison.cases.get((row, variant)) for variant in comparison.variants}
        figures = {variant: figure for variant, figure in cells.items() if figure is not None}
        if (result := standing(figures)) is not None:
            contests.append((figures, result))
    where = partial(_where, contests=len(contests))
    several_sweeps = [figures for figures, _ in contests if _sweeps(figures) > 1]
    one_sweep = [one for one in contests if _sweeps(one[0]) == 1]
    yield from _winners(comparison, one_sweep, where)
    yield from _no_winners(comparison, one_sweep, where)
    if several_sweeps:
        yield say(
            "On {devices}, the fastest cannot be told{in_rows}, where the frameworks were measured in "
            "different sweeps; one sweep with all of them would settle it",
            **where(several_sweeps),
        )


def _where(rows: Sequence[RowFigures], *, contests: int) -> dict[str, Inline]:
    """What the cases of some rows ran on, and how many of several rows these are.

    Cases that did not run are taken where no other of their row did.
    """
    ran = (next((one for one in row.values() if one.runs), next(iter(row.values()))) for row in rows)
    in_rows = say(" in {count} of {rows}", count=len(rows), rows=plural(contests, "row"))
    return {"devices": joined(dict.fromkeys(map(_devices, ran))), "in_rows": in_rows if contests > 1 else ""}


def _winners(comparison: Comparison, contests: Sequence[Contest], where: Where) -> Iterator[Text]:
    wins: dict[Variant, list[Contest]] = {}
    for contest in contests:
        if contest[1].winner is not None:
            wins.setdefault(contest[1].winner, []).append(contest)
    for variant, won in sorted(wins.items(), key=lambda item: (-len(item[1]), item[0])):
        leads = [result.leads[result.next].ratio for _, result in won]
        yield say(
            "On {devices}, {framework} is the fastest{in_rows}, {ahead} times the next",
            **where([{variant: figures[variant]} for figures, _ in won]),
            framework=comparison.label(variant),
            ahead=reach(factor(min(leads)), factor(max(leads))),
        )


def _no_winners(comparison: Comparison, contests: Sequence[Contest], where: Where) -> Iterator[Text]:
    close = [one for one in contests if one[1].winner is None and not one[1].lacking]
    settled = [one for one in close if one[1].runs_needed is not None]
    for some in (settled, [one for one in close if one[1].runs_needed is None]):
        if some:
            yield say(
                "On {devices}, the fastest cannot be told{in_rows} ({who}); {remedy}",
                **where([figures for figures, _ in some]),
                who=joined(dict.fromkeys(_candidates(comparison, result) for _, result in some), "; "),
                remedy=_remedy([result.runs_needed or 0 for _, result in some]),
            )
    lacking = [one for one in contests if one[1].lacking]
    if lacking:
        yield say(
            "On {devices}, no winner is named{in_rows}: each framework needs at least {fewest} good runs "
            "({who})",
            **where([figures for figures, _ in lacking]),
            fewest=FEWEST_RUNS,
            who=joined(_who_lacks(comparison, [result.lacking for _, result in lacking])),
        )


def _sweeps(figures: RowFigures) -> int:
    return len({figure.sweep for figure in figures.values()})


def _remedy(runs: Sequence[int]) -> Text:
    if not any(runs):
        return say("no affordable number of runs would settle it")
    return say("about {runs} good runs of each would settle it", runs=max(runs))


def _who_lacks(comparison: Comparison, lacking: Sequence[Mapping[Variant, int]]) -> Iterator[Text]:
    counts: dict[Variant, list[int]] = {}
    for few in lacking:
        for variant, count in few.items():
            counts.setdefault(variant, []).append(count)
    for variant, runs in sorted(counts.items()):
        good = reach(str(min(runs)), str(max(runs)))
        yield say("{framework} has {count}", framework=comparison.label(variant), count=good)


def _candidates(comparison: Comparison, standing: Standing[Variant]) -> Inline:
    """`PyTorch 2.13.0 / MXNet 1.9.1`."""
    first = () if standing.first is None else (standing.first,)
    return joined(map(comparison.label, (*first, *standing.close)), " / ")


def _devices(figure: CaseFigures) -> Text:
    """What a case ran on in all: `2 CPU cores`, `one NVIDIA H200`."""
    count, name = devices_of(figure)
    if name == "CPU core":
        return plural(count, "CPU core")
    if name == "CPU device":
        return plural(count, "CPU device")
    return (
        say("one {device}", device=name)
        if count == 1
        else say("{count} x {device}", count=count, device=name)
    )
