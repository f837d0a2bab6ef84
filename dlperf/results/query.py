"""Results loaded from folders and published data sets, as cases and as tables; cases found by name."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.layout import CASE_NAME, IMPORT_NAME, LOGS_FOLDER, OUTCOME_NAME
from dlperf.plan.plan import Plan
from dlperf.results.cases import CaseFigures, case_figures, planned_cells
from dlperf.results.limits import StoredLimit, read_limits
from dlperf.results.published import PREFIX, Published, load_published
from dlperf.results.store import Results, read_results, recompute

if TYPE_CHECKING:
    import pandas as pd

    from dlperf.results.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Results with the figures of their cases, planned cases without a run included; published data sets.

    `runs` and `cases` are the two tables of `dlperf.results.tables`.
    """

    results: Results
    figures: tuple[CaseFigures, ...]  # of the results
    published: tuple[Published, ...] = ()
    limits: tuple[StoredLimit, ...] = ()

    @property
    def all_figures(self) -> tuple[CaseFigures, ...]:
        """Those of the results, then the published ones."""
        return (*self.figures, *(figure for published in self.published for figure in published.figures))

    @cached_property
    def _tables(self) -> Tables:
        from dlperf.results.tables import tables  # noqa: PLC0415 - pandas is slow to load

        return tables(self.all_figures)

    @property
    def runs(self) -> pd.DataFrame:
        """A row per run; `case_row` is the index of its case in `cases`. Published figures have no runs."""
        return self._tables.runs

    @property
    def cases(self) -> pd.DataFrame:
        """A row per case; the index is the case's place in `all_figures`."""
        return self._tables.cases


def load(paths: Sequence[Path], *, strict: bool, from_logs: bool = False) -> Loaded:
    """Read everything under the paths.

    Args:
        paths: results folders, folders of sweeps, or `published:NAME`.
        strict: raise for the files that would be skipped and named.
        from_logs: compute every result again from its run folder's logs in place of reading it.

    Raises:
        UserError: a path is no folder, a published name is not known, there is no result in any, or
            (`strict`) one cannot be read.
    """
    names = dict.fromkeys(str(path) for path in paths if str(path).startswith(PREFIX))
    published = tuple(load_published(name) for name in names)
    results = read_results(*(path for path in paths if str(path) not in names))
    if from_logs:
        results = recompute(results)
    if strict and results.skipped:
        raise UserError("\n".join(str(skipped) for skipped in results.skipped))
    figures = case_figures(results, planned_cells(results.plans))
    if not figures and not published:
        raise UserError("\n".join([_nothing(paths), *(str(skipped) for skipped in results.skipped)]))
    limits = tuple(
        limit
        for sweep in results.sweeps
        for limit in _as_planned(read_limits(sweep, from_logs=from_logs), results.plans.get(sweep))
    )
    return Loaded(results=results, figures=figures, published=published, limits=limits)


def _as_planned(limits: Sequence[StoredLimit], plan: Plan | None) -> list[StoredLimit]:
    """The limits in the order of the plan's cases, which is that of the sweep file."""
    order = {item.case_id: number for number, item in enumerate(plan.cases)} if plan is not None else {}
    return sorted(limits, key=lambda limit: order.get(limit.record.case.case_id, len(order)))


def _nothing(paths: Sequence[Path]) -> str:
    where = ", ".join(str(path) for path in paths)
    return f"{where}: no results here; `dlperf run SWEEP` makes a folder with runs/ and plan.lock.json"


def find_case(figures: Sequence[CaseFigures], name: str) -> tuple[CaseFigures, ...]:
    """The case named by its id, its content hash or a part of its id; one entry per sweep with it.

    Raises:
        UserError: no case has that name, or several have.
    """
    exact = [figure for figure in figures if name in {figure.case.case_id, figure.case.content_hash}]
    found = exact or [figure for figure in figures if name and name in figure.case.case_id]
    names = list(dict.fromkeys(figure.case.case_id for figure in found))
    if len(names) > 1:
        raise UserError(f"{name!r} names {len(names)} cases:\n" + "\n".join(f"  {one}" for one in names))
    if not found:
        known = list(dict.fromkeys(figure.case.case_id for figure in figures))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `dlperf results` lists them"
        raise UserError(f"no case is named {name!r}{hint}")
    return tuple(found)


# Fingerprints of what a run's figures are made from, so that a report can say what it was made from.


_DIGITS = 16
_CHUNK = 1 << 16
# A report reads thousands of these files: plain names in place of a Path each halve the time.
_SOURCES = (CASE_NAME, OUTCOME_NAME, IMPORT_NAME)


def run_sources(folder: Path) -> dict[str, str]:
    """The files that a run's figures are made from: SHA-256 in hexadecimal digits by name.

    They are `case.json`, `outcome.json`, `import.json` and the files of `logs/`, as far as they are there;
    what is made from them (`result.json`, `steps.csv`) does not count.
    """
    place = str(folder)
    names = [name for name in os.listdir(place) if name in _SOURCES]  # noqa: PTH208
    return {name: _digest_of(f"{place}/{name}") for name in (*sorted(names), *_logs(place))}


def run_digest(sources: Mapping[str, str]) -> str:
    """First 16 hexadecimal digits of SHA-256 over the names and digests of a run's sources."""
    digest = hashlib.sha256()
    for name, content in sources.items():
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:_DIGITS]


def _logs(place: str) -> list[str]:
    try:
        return [f"{LOGS_FOLDER}/{name}" for name in sorted(os.listdir(f"{place}/{LOGS_FOLDER}"))]  # noqa: PTH208
    except FileNotFoundError:
        return []


def _digest_of(path: str) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
    finally:
        os.close(descriptor)
    return digest.hexdigest()
