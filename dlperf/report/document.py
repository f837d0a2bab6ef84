"""What a report says, before it has a form: built from results alone, so that equal results say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf import __version__
from dlperf.report.alignment import Proof, alignment_line, proofs
from dlperf.report.comparison import Arm, Comparison, canonical_workload, comparisons
from dlperf.report.environment import EnvironmentTable, environment_tables
from dlperf.report.findings import findings
from dlperf.report.method import Method, method
from dlperf.report.notes import comparison_notes, report_notes
from dlperf.report.numbers import or_not_known
from dlperf.report.published import PublishedReport, published_report
from dlperf.report.referee import Flag, flags_table, referee
from dlperf.report.tables import (
    breakdown_table,
    ceilings,
    gaps_table,
    inside_table,
    repeats_table,
    throughput_table,
)
from dlperf.results.rows import speedups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dlperf.align.certificate import Certificate
    from dlperf.report.markdown import Markdown, Table
    from dlperf.results.figures import CaseFigures
    from dlperf.results.query import Loaded
    from dlperf.results.store import Skipped


_LONGEST_IN_HEADING = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One comparison as a report shows it; `slug` is of [a-z0-9-] only and unique in the report."""

    slug: str
    title: str
    settings: tuple[tuple[str, str], ...]
    alignment: Markdown
    findings: tuple[str, ...]
    notes: tuple[Markdown, ...]
    throughput: Table
    flags: Table | None
    repeats: Table | None
    inside: Table | None
    breakdown: Table | None
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report."""

    title: str
    dlperf_version: str
    cases: int
    runs: int
    failed_runs: int
    notes: tuple[Markdown, ...]
    sections: tuple[Section, ...]
    published: tuple[PublishedReport, ...]
    arms: tuple[Arm, ...]  # of all sections
    gaps: Table | None
    proofs: tuple[Proof, ...]
    method: Method
    environments: tuple[EnvironmentTable, ...]
    skipped: tuple[str, ...]


def document(
    loaded: Loaded,
    *,
    titles: Mapping[str, str],
    certificates: Sequence[Certificate] = (),
    skipped: Sequence[Skipped] = (),
) -> Document:
    """The report of some results.

    Args:
        loaded: the results and their cases' figures.
        titles: frameworks as their makers write them, by name.
        certificates: what is proven about the frameworks computing the same function.
        skipped: files that could not be read.
    """
    results, figures = loaded.results, loaded.figures
    made = comparisons(figures, speedups(figures), titles=titles)
    best = ceilings(figures)
    slugs = _unique(_slug(comparison) for comparison in made)
    flags = _by_case(referee(figures))
    published = tuple(published_report(one, titles=titles) for one in loaded.published)
    simulated = any(figure.case.simulated for figure in figures)
    names = (*(sweep.resolve().name for sweep in results.sweeps), *(one.title for one in published))
    return Document(
        title=f"{'SIMULATED: ' if simulated else ''}{' and '.join(names)}",
        dlperf_version=__version__,
        cases=len(figures),
        runs=len(results.runs),
        failed_runs=sum(run.result.figures is None for run in results.runs),
        notes=report_notes(loaded, made),
        sections=tuple(
            _section(comparison, slug=slug, best=best, certificates=certificates, flags=flags)
            for comparison, slug in zip(made, slugs, strict=True)
        ),
        published=published,
        arms=tuple(sorted({arm for comparison in made for arm in comparison.arms})),
        gaps=gaps_table(made),
        proofs=proofs(certificates),
        method=method(loaded),
        environments=environment_tables(loaded, titles=titles),
        skipped=tuple(_skipped(one, results.sweeps) for one in skipped),
    )


def _skipped(skipped: Skipped, sweeps: Sequence[Path]) -> str:
    """The file from its sweep's folder on, so that a report reads alike wherever the results lie."""
    sweep = next(sweep for sweep in sweeps if skipped.path.is_relative_to(sweep))
    return f"{sweep.resolve().name}/{skipped.path.relative_to(sweep)}: {skipped.why}"


def _section(
    comparison: Comparison,
    *,
    slug: str,
    best: Mapping[tuple[str, int], float],
    certificates: Sequence[Certificate],
    flags: Mapping[tuple[Path, str, str], Sequence[Flag]],
) -> Section:
    measured = any(figure.summary is not None for figure in comparison.figures)
    return Section(
        slug=slug,
        title=_heading(comparison),
        settings=tuple(_settings(comparison)),
        alignment=alignment_line(comparison, certificates),
        findings=findings(comparison),
        notes=comparison_notes(comparison, ceilings=best),
        throughput=throughput_table(comparison),
        flags=flags_table(
            (flag for figure in comparison.figures for flag in flags.get(_place(figure), ())),
            titles=comparison.titles,
        ),
        repeats=repeats_table(comparison) if measured else None,
        inside=inside_table(comparison, ceilings=best) if measured else None,
        breakdown=breakdown_table(comparison),
        comparison=comparison,
    )


def _by_case(flags: Iterable[Flag]) -> dict[tuple[Path, str, str], list[Flag]]:
    found: dict[tuple[Path, str, str], list[Flag]] = {}
    for flag in flags:
        found.setdefault(_place(flag.subject), []).append(flag)
    return found


def _place(figure: CaseFigures) -> tuple[Path, str, str]:
    """What no two cases of a report share."""
    return (figure.sweep, figure.hardware, figure.case.content_hash)


def _heading(comparison: Comparison) -> str:
    """Experiment and parallelism, and what tells the table from others of both where that is short."""
    case = comparison.sample
    words = {"data": "data parallel", "model": "model parallel", "partial_fc": "Partial FC"}[case.parallelism]
    mark = ["SIMULATED"] if case.simulated else []
    apart = [text for text in comparison.apart if len(text) <= _LONGEST_IN_HEADING]
    return ", ".join([case.workload.experiment, words, *mark, *apart])


def _settings(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What every case of a table has in common."""
    case, row = comparison.sample, comparison.rows[0]
    yield "workload", canonical_workload(comparison.figures[0])
    if not comparison.varying("num_classes"):
        yield "classes", str(row.num_classes)
    if not comparison.varying("precision"):
        yield "precision", row.precision
    if row.sample_ratio and not comparison.varying("sample_ratio"):
        yield "sample ratio", f"{row.sample_ratio:g}"
    yield "device", case.device
    yield "threads a device", or_not_known(comparison.figures[0].threads_per_device)
    yield "hardware", comparison.hardware


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
