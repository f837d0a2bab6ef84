"""What a report says, before it has a form: built from results alone, so that equal results say the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from dlperf.align.certificate import Certificate
from dlperf.report.alignment import Proof, alignment_line, proofs
from dlperf.report.annex import Annex, annex
from dlperf.report.columns import View, ceilings, check_baseline
from dlperf.report.comparison import (
    PARALLELISMS,
    Comparison,
    Variant,
    canonical_workload,
    comparisons,
    memory_budget,
)
from dlperf.report.limits import limit_tables
from dlperf.report.method import EnvironmentTable, environment_tables, method
from dlperf.report.notes import comparison_notes, findings, report_notes
from dlperf.report.numbers import or_not_known
from dlperf.report.sanity_checks import CheckWarning, case_words, sanity_checks, warnings_table
from dlperf.report.tables import (
    CaseKey,
    Evidence,
    TableContext,
    breakdown_table,
    case_key,
    inside_table,
    missing_cells_table,
    other_sources_table,
    repeats_table,
    throughput_table,
)
from dlperf.report.text import Inline, Table, Text, joined, plain_text, say
from dlperf.results.cases import CaseFigures, speedups
from dlperf.results.noise_profile import NoiseProfile
from dlperf.results.query import Loaded
from dlperf.results.store import Skipped
from dlperf.version import __version__

_LONGEST_IN_HEADING = 40


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
    warnings: Table | None
    repeats: Table | None
    inside: Table | None
    breakdown: Table | None
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report."""

    title: Inline
    dlperf_version: str
    cases: int  # of our own: published ones are not counted
    runs: int
    failed_runs: int
    notes: tuple[Text, ...]
    sections: tuple[Section, ...]
    annexes: tuple[Annex, ...]
    variants: tuple[Variant, ...]  # of all sections
    limits: tuple[Table, ...]
    other_sources: Table | None
    missing_cells: Table | None
    proofs: tuple[Proof, ...]
    method: tuple[Text, ...]
    environments: tuple[EnvironmentTable, ...]
    evidence: Table | None
    skipped: tuple[str, ...]
    sources: Mapping[Path, Mapping[str, str]]  # SHA-256 by name, of the files of each run folder
    figures: tuple[CaseFigures, ...]  # published ones too


def document(
    loaded: Loaded,
    *,
    titles: Mapping[str, str],
    certificates: Sequence[Certificate] = (),
    noise_profile: NoiseProfile | None = None,
    skipped: Sequence[Skipped] = (),
    view: View | None = None,
    report_folder: Path = Path(),
    sources: Mapping[Path, Mapping[str, str]] = MappingProxyType({}),
) -> Document:
    """The report of some results.

    Args:
        loaded: the results and their cases' figures.
        titles: frameworks as their makers write them, by name.
        certificates: what is proven about the frameworks computing the same function.
        noise_profile: what A/A runs on the machines came to.
        skipped: files that could not be read.
        view: what the reader asked for.
        report_folder: the folder that the report will lie in; links to run folders start there.
        sources: of the run folders, `dlperf.results.query.run_sources`.

    Raises:
        UserError: the view asks for a framework that is not there.
    """
    view = view or View()
    results, figures = loaded.results, loaded.all_figures
    made = comparisons(figures, speedups(figures), titles=titles, group_by=view.group_by)
    variants = tuple(sorted({variant for comparison in made for variant in comparison.variants}))
    check_baseline(view, variants)
    best, evidence = ceilings(figures), Evidence.of(figures)
    if noise_profile is not None and not any(map(partial(_qualified, noise_profile), figures)):
        noise_profile = None  # of other machines, or other cases
    scenes = [
        TableContext(comparison=one, evidence=evidence, view=view, ceilings=best, noise_profile=noise_profile)
        for one in made
    ]
    slugs = _unique(_slug(comparison) for comparison in made)
    warnings = _by_case(sanity_checks(figures))
    title = joined(
        (*(sweep.resolve().name for sweep in results.sweeps), *(one.data.title for one in loaded.published)),
        " + ",
    )
    return Document(
        title=title,
        dlperf_version=__version__,
        cases=len(loaded.figures),
        runs=len(results.runs),
        failed_runs=sum(run.result.figures is None for run in results.runs),
        notes=report_notes(loaded, made),
        sections=tuple(
            _section(context, slug=slug, certificates=certificates, warnings=warnings)
            for context, slug in zip(scenes, slugs, strict=True)
        ),
        annexes=tuple(annex(one, titles=titles) for one in loaded.published),
        variants=variants,
        limits=limit_tables(loaded.limits, titles=titles, report_folder=report_folder),
        other_sources=other_sources_table(loaded, titles=titles),
        missing_cells=missing_cells_table(made),
        proofs=proofs(certificates),
        method=method(loaded, view, noise_profile),
        environments=environment_tables(loaded, titles=titles),
        evidence=evidence.table(figures, report_folder=report_folder, sources=sources),
        sources=sources,
        skipped=tuple(_skipped(one, results.sweeps) for one in skipped),
        figures=figures,
    )


def _qualified(noise_profile: NoiseProfile, figure: CaseFigures) -> bool:
    where = [(figure.case, figure.hardware)]
    return noise_profile.floor(where, "samples_per_sec", in_turns=True) is not None


def _skipped(skipped: Skipped, sweeps: Sequence[Path]) -> str:
    """The file from its sweep's folder on, so that a report reads alike wherever the results lie."""
    sweep = next(sweep for sweep in sweeps if skipped.path.is_relative_to(sweep))
    return f"{sweep.resolve().name}/{skipped.path.relative_to(sweep)}: {skipped.why}"


def _section(
    context: TableContext,
    *,
    slug: str,
    certificates: Sequence[Certificate],
    warnings: Mapping[CaseKey, Sequence[CheckWarning]],
) -> Section:
    comparison = context.comparison
    ours = not comparison.published
    measured = ours and any(figure.summary is not None for figure in comparison.figures)
    return Section(
        slug=slug,
        title=_heading(comparison),
        settings=tuple(_settings(comparison)),
        alignment=alignment_line(comparison, certificates),
        findings=findings(comparison),
        notes=comparison_notes(comparison, ceilings=context.ceilings),
        throughput=throughput_table(context),
        warnings=warnings_table(
            (warning for figure in comparison.figures for warning in warnings.get(case_key(figure), ())),
            name=partial(case_words, titles=comparison.titles),
        ),
        repeats=repeats_table(context) if measured else None,
        inside=inside_table(context) if measured else None,
        breakdown=breakdown_table(context),
        comparison=comparison,
    )


def _by_case(warnings: Iterable[CheckWarning]) -> dict[CaseKey, list[CheckWarning]]:
    found: dict[CaseKey, list[CheckWarning]] = {}
    for warning in warnings:
        found.setdefault(case_key(warning.subject), []).append(warning)
    return found


def _heading(comparison: Comparison) -> Inline:
    """Experiment and parallelism, and what tells the table from others of both where that is short."""
    case = comparison.sample
    group = (say("{what}: {value}", what=name, value=value) for name, value in comparison.group)
    apart = (text for text in comparison.apart if len(plain_text(text)) <= _LONGEST_IN_HEADING)
    return joined((case.workload.experiment, PARALLELISMS[case.parallelism], *group, *apart))


def _settings(comparison: Comparison) -> Iterator[tuple[Text, Inline]]:
    """What every case of a table has in common."""
    figure, row = comparison.figures[0], comparison.rows[0]
    ours = not comparison.published  # of its workload a source gives no more than the name
    if ours:
        yield say("workload"), canonical_workload(figure)
    if ours and not comparison.varying("num_classes"):
        yield say("classes"), row.shown("num_classes")
    if not comparison.varying("precision"):
        yield say("precision"), row.precision
    if row.sample_ratio and not comparison.varying("sample_ratio"):
        yield say("sample ratio"), f"{row.sample_ratio:g}"
    yield say("device"), figure.case.device
    if figure.case.memory_bytes is not None:
        yield say("memory budget"), memory_budget(figure.case)
    if ours:
        yield say("threads per device"), or_not_known(figure.threads_per_device)
    yield say("hardware"), comparison.hardware


def _slug(comparison: Comparison) -> str:
    case = comparison.sample
    return (
        re.sub(r"[^a-z0-9]+", "-", f"{case.workload.experiment}-{case.parallelism}".lower()).strip("-")
        or "table"
    )


def _unique(slugs: Iterable[str]) -> list[str]:
    """Each slug once: the second `y1-data` becomes `y1-data-2`."""
    taken: dict[str, None] = {}
    for slug in slugs:
        number, name = 1, slug
        while name in taken:
            number += 1
            name = f"{slug}-{number}"
        taken[name] = None
    return list(taken)
