"""Results as readers want them: loaded, made into cases, and found by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.results.figures import case_figures
from dlperf.results.limits import read_limits
from dlperf.results.planned import planned_cells
from dlperf.results.published import PREFIX, load_published
from dlperf.results.store import made_again, read_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.plan.plan import Plan
    from dlperf.results.figures import CaseFigures
    from dlperf.results.limits import StoredLimit
    from dlperf.results.published import Published
    from dlperf.results.store import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Results and the figures of their cases, planned cells without a run included; published data sets."""

    results: Results
    figures: tuple[CaseFigures, ...]  # of the results
    published: tuple[Published, ...] = ()
    limits: tuple[StoredLimit, ...] = ()

    @property
    def all_figures(self) -> tuple[CaseFigures, ...]:
        """Those of the results, then the published ones."""
        return (*self.figures, *(figure for published in self.published for figure in published.figures))


def load(paths: Sequence[Path], *, strict: bool, from_logs: bool = False) -> Loaded:
    """Read everything under the paths.

    Args:
        paths: results folders, folders of sweeps, or `published:NAME`.
        strict: raise for the files that would be skipped and named.
        from_logs: make every result again from its run folder's log in place of reading it.

    Raises:
        UserError: a path is no folder, a published name is not known, there is no result in any, or
            (`strict`) one cannot be read.
    """
    names = dict.fromkeys(str(path) for path in paths if str(path).startswith(PREFIX))
    published = tuple(load_published(name) for name in names)
    results = read_results(*(path for path in paths if str(path) not in names))
    if from_logs:
        results = made_again(results)
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
    """The limits in the order of the plan's cases: frameworks stand as the sweep names them."""
    order = {item.case_id: number for number, item in enumerate(plan.cases)} if plan is not None else {}
    return sorted(limits, key=lambda limit: order.get(limit.record.case.case_id, len(order)))


def _nothing(paths: Sequence[Path]) -> str:
    where = ", ".join(str(path) for path in paths)
    return f"{where}: no results here; `dlperf run SWEEP` makes a folder with runs/ and plan.lock.json"


def find_case(figures: Sequence[CaseFigures], name: str) -> tuple[CaseFigures, ...]:
    """The case named by its id, its content hash or a part of its id; one entry for each sweep that holds it.

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
