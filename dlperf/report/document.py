"""What a report says, before it has a form: built from results alone, so that equal results say the same."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from dlperf.adapters.registry import load_adapters
from dlperf.align.certificate import Certificate
from dlperf.errors import UserError
from dlperf.report import tables
from dlperf.report.against import Against, against
from dlperf.report.alignment import Proof, alignment_line, proofs, read_certificates
from dlperf.report.annex import Annex, annex
from dlperf.report.columns import TableContext, View, check_baseline, noise_floor
from dlperf.report.comparison import (
    DATA,
    LOOP,
    PARALLELISMS,
    Comparison,
    Variant,
    canonical_workload,
    case_key,
    comparisons,
    data_words,
    has_choices,
    loop_words,
    memory_budget,
)
from dlperf.report.limits import limit_tables
from dlperf.report.loops import data_sets_table, input_tax_table, loops_table, sources_table
from dlperf.report.method import EnvironmentTable, environment_tables, method
from dlperf.report.notes import comparison_notes, findings, report_notes
from dlperf.report.numbers import or_not_known
from dlperf.report.sanity_checks import CheckWarning, sanity_checks, warnings_table
from dlperf.report.telemetry import telemetry_table
from dlperf.report.text import Inline, Table, Text, joined, plain_text, say
from dlperf.results.cases import CaseFigures, matmul_shares
from dlperf.results.noise_profile import read_noise_profile
from dlperf.results.published import load_published
from dlperf.results.query import Loaded, load, run_sources
from dlperf.results.store import Results, Skipped
from dlperf.version import __version__

Language = Literal["en", "zh"]
Form = Literal["md", "html"]
_LONGEST_IN_HEADING = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What decides a report beside the results."""

    paths: tuple[Path, ...]  # results folders, folders of sweeps, or `published:NAME`
    against: tuple[str, ...] = ()  # published data sets, `published:NAME`, to set measured cases beside
    form: Form = "md"
    language: Language = "en"  # of the sentences that are ours
    certificates: tuple[Path, ...] = ()  # of `dlperf align`; without any, align*.json in the results' folders
    qualification: Path | None = None  # a file of `dlperf qualify`, for the noise of the machines
    template: Path | None = None  # a jinja2 file in place of the shipped one; trusted, unlike the results
    view: View = field(default_factory=View)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One comparison as a report shows it; `slug` is of [a-z0-9-] only and unique in the report."""

    slug: str
    title: Inline
    settings: tuple[tuple[Text, Inline], ...]
    alignment: Text
    findings: tuple[Text, ...]
    notes: tuple[Text, ...]
    throughput: Table
    warnings: Table
    repeats: Table | None
    inside: Table | None
    breakdown: Table
    telemetry: Table | None
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report."""

    title: Inline
    dlperf_version: str
    cases: int  # of our own: published ones are not counted
    runs: int
    failed_runs: int
    sweep_notes: tuple[tuple[str, str], ...]  # names of sweeps, and their `notes` where they have some
    notes: tuple[Text, ...]
    sections: tuple[Section, ...]
    annexes: tuple[Annex, ...]
    variants: tuple[Variant, ...]  # of all sections
    loops: Table
    input_tax: Table
    limits: tuple[Table, ...]
    other_sources: Table
    against: tuple[Against, ...]
    missing_cells: Table
    proofs: tuple[Proof, ...]
    method: tuple[Text, ...]
    environments: tuple[EnvironmentTable, ...]
    inputs: tuple[Table, ...]  # the original programs and the data sets, where there are any
    evidence: Table
    skipped: tuple[str, ...]
    sources: Mapping[Path, Mapping[str, str]]  # SHA-256 by name, of the files of each run folder
    figures: tuple[CaseFigures, ...]  # published ones too


def build_report(
    request: Request, *, report_folder: Path = Path(), strict: bool = False, from_logs: bool = False
) -> Document:
    """The report that is asked for, which will lie in `report_folder`; UserError where there is no result.

    `strict` raises it too where results cannot be read or come from different hardware; `from_logs` computes
    every result again from its log.
    """
    loaded = load(request.paths, strict=strict, from_logs=from_logs)
    hardware = sorted({run.hardware for run in loaded.results.runs})
    if strict and len(hardware) > 1:
        raise UserError(
            "results of different hardware are not comparable:\n" + "\n".join(f"  {one}" for one in hardware)
        )
    certificates, damaged = read_certificates(loaded.results.sweeps, given=request.certificates)
    if strict and damaged:
        raise UserError("\n".join(map(str, damaged)))
    return document(loaded, request, certificates=certificates, damaged=damaged, report_folder=report_folder)


def document(
    loaded: Loaded,
    request: Request,
    *,
    certificates: Sequence[Certificate] = (),
    damaged: Sequence[Skipped] = (),
    report_folder: Path = Path(),
) -> Document:
    """The report of results that are loaded; `damaged` are the certificates that could not be read.

    UserError where the request names a framework, a published data set or a qualification that is not there.
    """
    view, beside = request.view, tuple(map(load_published, request.against))
    noise_profile = read_noise_profile(request.qualification) if request.qualification else None
    # Frameworks as their makers write them, by name.
    titles = {name: adapter.title for name, adapter in load_adapters().items()}
    for one in (*loaded.published, *beside):
        titles = {**one.data.titles, **titles}
    results, figures = loaded.results, loaded.all_figures
    compared = sorted(comparisons(figures, titles=titles, group_by=view.group_by), key=_is_without_a_figure)
    variants = tuple(sorted({variant for comparison in compared for variant in comparison.variants}))
    check_baseline(view, variants)
    if all(noise_floor(noise_profile, figure) is None for figure in figures):
        noise_profile = None  # of other machines, or other cases
    ran = (figure for figure in figures if figure.runs)
    anchors = {case_key(figure): f"e{number}" for number, figure in enumerate(ran, 1)}
    shares = dict(zip(map(case_key, figures), matmul_shares(figures), strict=True))
    sources = {run.folder: run_sources(run.folder) for run in results.runs}
    warnings = sanity_checks(figures)
    sweeps = (sweep.resolve().name for sweep in results.sweeps)
    chosen = has_choices(figure.case for figure in figures)
    section = partial(_section, certificates=certificates, warnings=warnings, chosen=chosen)
    context = partial(TableContext, view=view, anchors=anchors, shares=shares, noise_profile=noise_profile)
    return Document(
        title=joined((*sweeps, *(published.data.title for published in loaded.published)), " + "),
        dlperf_version=__version__,
        cases=len(loaded.figures),
        runs=len(results.runs),
        failed_runs=sum(run.result.figures is None for run in results.runs),
        sweep_notes=tuple(_sweep_notes(results)),
        notes=tuple(report_notes(loaded, compared)),
        sections=tuple(
            section(context(comparison=comparison), slug=slug)
            for comparison, slug in zip(compared, _slugs(compared), strict=True)
        ),
        annexes=tuple(annex(one, titles=titles) for one in loaded.published),
        variants=variants,
        loops=loops_table(figures, titles=titles, anchors=anchors),
        input_tax=input_tax_table(figures, titles=titles, anchors=anchors),
        limits=limit_tables(loaded.limits, titles=titles, report_folder=report_folder),
        against=tuple(against(one, loaded.figures, titles=titles) for one in beside),
        other_sources=tables.other_sources_table(loaded, titles=titles),
        missing_cells=tables.missing_cells_table(compared),
        proofs=proofs(certificates),
        method=tuple(method(loaded, view, noise_profile)),
        environments=environment_tables(loaded, titles=titles),
        inputs=tuple(filter(None, (sources_table(figures, titles=titles), data_sets_table(figures)))),
        evidence=tables.evidence_table(figures, anchors, report_folder=report_folder, sources=sources),
        sources=sources,
        skipped=tuple(_skipped(one, results.sweeps) for one in (*results.skipped, *damaged)),
        figures=figures,
    )


def _is_without_a_figure(comparison: Comparison) -> bool:
    return not any(figure.summary for figure in comparison.figures)


def _sweep_notes(results: Results) -> Iterator[tuple[str, str]]:
    """Names of sweeps with what their files say, on one line; the rounds of a gate say the same once."""
    names: dict[str, list[str]] = {}
    for sweep, plan in results.plans.items():
        names.setdefault(" ".join(plan.notes.split()), []).append(sweep.resolve().name)
    return ((", ".join(sweeps), text) for text, sweeps in names.items() if text)


def _skipped(skipped: Skipped, sweeps: Sequence[Path]) -> str:
    """The file from its sweep's folder on, so that a report reads alike wherever the results lie."""
    sweep = next(sweep for sweep in sweeps if skipped.path.is_relative_to(sweep))
    return f"{sweep.resolve().name}/{skipped.path.relative_to(sweep)}: {skipped.why}"


def _section(
    context: TableContext,
    *,
    slug: str,
    certificates: Sequence[Certificate],
    warnings: Sequence[CheckWarning],
    chosen: bool,
) -> Section:
    comparison = context.comparison
    measured = not comparison.published and any(figure.summary for figure in comparison.figures)
    order = {case_key(figure): number for number, figure in enumerate(comparison.figures)}
    own = (warning for warning in warnings if case_key(warning.subject) in order)
    return Section(
        slug=slug,
        title=_heading(comparison),
        settings=tuple(_settings(comparison, chosen=chosen)),
        alignment=alignment_line(comparison, certificates),
        findings=tuple(findings(comparison)),
        notes=tuple(comparison_notes(comparison, shares=context.shares)),
        throughput=tables.throughput_table(context),
        warnings=warnings_table(
            sorted(own, key=lambda warning: order[case_key(warning.subject)]), titles=comparison.titles
        ),
        repeats=tables.repeats_table(context) if measured else None,
        inside=tables.inside_table(context) if measured else None,
        breakdown=tables.breakdown_table(context),
        telemetry=telemetry_table(context) if measured else None,
        comparison=comparison,
    )


def _heading(comparison: Comparison) -> Inline:
    """Experiment and parallelism, and what tells the table from others of both where that is short.

    An original program and a data set are always named.
    """
    case, figure = comparison.sample, comparison.figures[0]
    group = (say("{what}: {value}", what=name, value=value) for name, value in comparison.group)
    named: dict[Inline, Text] = {}
    if case.source is not None:
        named[LOOP] = say("{what}: {value}", what=LOOP, value=loop_words(figure))
    if case.data is not None:
        named[DATA] = say("{what}: {value}", what=DATA, value=data_words(figure))
    apart = {dict(text.values)["what"]: text for text in comparison.apart}
    short = (
        (apart.get(what) or named[what])
        for what in dict.fromkeys((LOOP, DATA, *apart))
        if what in named or (what in apart and len(plain_text(apart[what])) <= _LONGEST_IN_HEADING)
    )
    return joined((case.workload.experiment, PARALLELISMS[case.parallelism], *group, *short))


def _settings(comparison: Comparison, *, chosen: bool) -> Iterator[tuple[Text, Inline]]:
    """What every case of a table has in common; `chosen`: loop and data are named in every table."""
    figure, row = comparison.figures[0], comparison.rows[0]
    ours = not comparison.published  # of its workload a source gives no more than the name
    if ours:
        yield say("workload"), canonical_workload(figure, with_data=not chosen)
    if chosen:
        yield LOOP, loop_words(figure)
        yield DATA, data_words(figure)
    if ours and "num_classes" not in (*comparison.varying, *comparison.searched):
        yield say("classes"), row.shown("num_classes")
    if "precision" not in comparison.varying:
        yield say("precision"), row.precision
    if figure.case.gradient_dtype != "float32":
        yield say("gradients travel in"), figure.case.gradient_dtype
    if row.sample_ratio and "sample_ratio" not in comparison.varying:
        yield say("sample ratio"), f"{row.sample_ratio:g}"
    yield say("device"), figure.case.device
    if figure.case.memory_bytes is not None:
        yield say("memory budget"), memory_budget(figure.case)
    if ours:
        threads = sorted({one.threads_per_device for one in comparison.figures}, key=lambda count: count or 0)
        yield say("threads per device"), joined(map(or_not_known, threads))
    yield say("hardware"), comparison.hardware


def _slugs(compared: Iterable[Comparison]) -> list[str]:
    """A slug per table, each once: the second `y1-data` becomes `y1-data-2`."""
    slugs: list[str] = []
    for comparison in compared:
        case = comparison.sample
        words = f"{case.workload.experiment}-{case.parallelism}".lower()
        slug = name = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "table"
        number = 1
        while name in slugs:
            number += 1
            name = f"{slug}-{number}"
        slugs.append(name)
    return slugs
