"""Results loaded from folders and published data sets, as cases and as tables; cases found by name."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.files import open_regular
from dlperf.layout import (
    CASE_NAME,
    IMPORT_NAME,
    LOGS_FOLDER,
    OUTCOME_NAME,
    RUNS_FOLDER,
    is_telemetry,
    log_files,
    repeat_of,
    sweep_folders,
)
from dlperf.plan.plan import Plan
from dlperf.results.cases import CaseFigures, case_figures
from dlperf.results.extract import read_case
from dlperf.results.published import PREFIX, Published, load_published
from dlperf.results.store import Results, StoredLimit, read_limits, read_results, recompute

if TYPE_CHECKING:
    import pandas as pd

    from dlperf.results.tables import Tables


_HASH_DIGITS = 12  # of a case's content, at the end of its id
_DIGEST_DIGITS = 16
# A report reads thousands of these files: plain names in place of a Path each halve the time.
_SOURCES = (CASE_NAME, OUTCOME_NAME, IMPORT_NAME)


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
    """Read everything under the paths: results folders, folders of sweeps, or `published:NAME`.

    `from_logs` computes every result again from its run folder's logs. UserError where a path or a name leads
    nowhere, there is no result at all, or (`strict`) one cannot be read.
    """
    names = dict.fromkeys(str(path) for path in paths if str(path).startswith(PREFIX))
    published = tuple(load_published(name) for name in names)
    results = read_results(*(path for path in paths if str(path) not in names))
    if from_logs:
        results = recompute(results)
    if strict and results.skipped:
        raise UserError("\n".join(str(skipped) for skipped in results.skipped))
    figures = case_figures(results)
    if not figures and not published:
        where = ", ".join(map(str, paths))
        nothing = f"{where}: no results here; `dlperf run SWEEP` makes a folder with runs/ and plan.lock.json"
        raise UserError("\n".join([nothing, *map(str, results.skipped)]))
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


def find_case(figures: Sequence[CaseFigures], name: str) -> tuple[CaseFigures, ...]:
    """The case named by its id, its content hash or a part of its id; one entry per sweep with it.

    UserError where no case has that name, or several have.
    """
    case_id = _case_id(name, [figure.case.case_id for figure in figures])
    if case_id is None:
        known = list(dict.fromkeys(figure.case.case_id for figure in figures))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `dlperf results` lists them"
        raise UserError(f"no case is named {name!r}{hint}")
    return tuple(figure for figure in figures if figure.case.case_id == case_id)


def find_run_folders(name: str, paths: Sequence[Path]) -> list[Path]:
    """The run folders of the case named as in `find_case`, running ones included: by sweep, then by repeat.

    UserError where no case or several have that name, or it has no run folder yet.
    """
    sweeps = sorted({sweep for path in paths for sweep in sweep_folders(path)})
    cases = [case for sweep in sweeps for case in sorted((sweep / RUNS_FOLDER).glob("*/"))]
    case_id = _case_id(name, [case.name for case in cases])
    runs = [
        (str(case), repeat, run)
        for case in cases
        if case.name == case_id
        for run in case.iterdir()
        if (repeat := repeat_of(run)) is not None
    ]
    if not runs:
        raise UserError(f"no run of a case named {name!r}; `dlperf results` lists the cases")
    return [run for _case, _repeat, run in sorted(runs)]


def _case_id(name: str, known: Iterable[str]) -> str | None:
    """The one id among `known` that `name` means; UserError where it means several."""
    ids = list(dict.fromkeys(known))
    exact = [case_id for case_id in ids if name in {case_id, case_id[-_HASH_DIGITS:]}]
    parts = [case_id for case_id in ids if name and name in case_id]
    # `mxnet-1.9.1` is the whole of one framework's name, and the end of another's.
    found = exact or [case_id for case_id in parts if case_id.startswith(name)] or parts
    if len(found) > 1:
        raise UserError(f"{name!r} names {len(found)} cases:\n" + "\n".join(f"  {one}" for one in found))
    return found[0] if found else None


def run_logs(folder: Path, *, ranks: Sequence[int] = (), nodes: Sequence[int] = ()) -> dict[int, Path]:
    """The logs of a run folder by rank: of these ranks and these nodes; none named means all.

    UserError where a rank or a node has no log here.
    """
    by_rank = log_files(folder)
    wanted = set(ranks or by_rank)
    if nodes:
        devices = read_case(folder).topology.devices_per_node
        wanted &= {rank for rank in by_rank if rank // devices in nodes}
    missing = sorted(set(ranks) - set(by_rank))
    if missing or (nodes and not wanted):
        what = f"rank {missing[0]}" if missing else f"node {nodes[0]}"
        known = ", ".join(map(str, by_rank)) or "none yet"
        raise UserError(f"{folder}: no log of {what}; ranks with a log: {known}")
    return {rank: by_rank[rank] for rank in sorted(wanted)}


def run_sources(folder: Path) -> dict[str, str]:
    """The files that a run's figures are made from: SHA-256 in hexadecimal digits by name.

    They are `case.json`, `outcome.json`, `import.json`, telemetry and the files of `logs/`, as far as they
    are there; what is made from them (`result.json`, `steps.csv`) does not count.
    """
    place = str(folder)
    names = [name for name in os.listdir(place) if name in _SOURCES or is_telemetry(name)]  # noqa: PTH208
    return {name: _digest_of(f"{place}/{name}") for name in (*sorted(names), *_logs(place))}


def run_digest(sources: Mapping[str, str]) -> str:
    """First 16 hexadecimal digits of SHA-256 over the names and digests of a run's sources."""
    digest = hashlib.sha256()
    for name, content in sources.items():
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:_DIGEST_DIGITS]


def _logs(place: str) -> list[str]:
    try:
        return [f"{LOGS_FOLDER}/{name}" for name in sorted(os.listdir(f"{place}/{LOGS_FOLDER}"))]  # noqa: PTH208
    except FileNotFoundError:
        return []


def _digest_of(path: str) -> str:
    try:
        with open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
