"""The logs of a case's runs, those of a run that is still going on included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlperf.errors import UserError
from dlperf.layout import RESULT_NAME, RUNS_FOLDER, log_files, repeat_of, sweep_folders
from dlperf.results.extract import read_case

_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLogs:
    """A run folder and its logs, one per rank."""

    folder: Path
    logs: tuple[tuple[int, Path], ...]

    @property
    def is_finished(self) -> bool:
        """Whether the run has its result, so that its logs grow no more."""
        return (self.folder / RESULT_NAME).is_file()


def find_run_folders(name: str, paths: Sequence[Path]) -> list[Path]:
    """The run folders of the case named so, by repeat; of several sweeps one behind the other.

    Args:
        name: a case's id, its content hash, or a part of the id that no other case has.
        paths: results folders, or folders of sweeps.

    Raises:
        UserError: no case or several have that name, or it has no run folder yet.
    """
    cases = [
        case
        for sweep in sorted({sweep for path in paths for sweep in sweep_folders(path)})
        if (sweep / RUNS_FOLDER).is_dir()
        for case in sorted((sweep / RUNS_FOLDER).iterdir())
        if case.is_dir()
    ]
    found = [case for case in cases if name in {case.name, case.name[-_HASH_DIGITS:]}] or [
        case for case in cases if name and name in case.name
    ]
    names = list(dict.fromkeys(case.name for case in found))
    if len(names) > 1:
        raise UserError(f"{name!r} names {len(names)} cases:\n" + "\n".join(f"  {one}" for one in names))
    runs = [
        (str(case), repeat, run)
        for case in found
        for run in case.iterdir()
        if (repeat := repeat_of(run)) is not None
    ]
    if not runs:
        raise UserError(f"no run of a case named {name!r}; `dlperf results` lists the cases")
    return [run for _case, _repeat, run in sorted(runs)]


def run_logs(folder: Path, *, ranks: Sequence[int] = (), nodes: Sequence[int] = ()) -> RunLogs:
    """The logs of a run folder.

    Args:
        folder: the run folder.
        ranks: the ranks to show; none means all.
        nodes: the nodes whose ranks to show; none means all.

    Raises:
        UserError: a rank or a node has no log here.
    """
    by_rank = log_files(folder)
    wanted = set(ranks or by_rank)
    if nodes:
        wanted &= {rank for rank in by_rank if rank // _devices_per_node(folder) in set(nodes)}
    missing = sorted(set(ranks) - set(by_rank))
    if missing or (nodes and not wanted):
        what = f"rank {missing[0]}" if missing else f"node {nodes[0]}"
        known = ", ".join(map(str, by_rank)) or "none yet"
        raise UserError(f"{folder}: no log of {what}; ranks with a log: {known}")
    return RunLogs(folder=folder, logs=tuple((rank, by_rank[rank]) for rank in sorted(wanted)))


def _devices_per_node(folder: Path) -> int:
    return read_case(folder).topology.devices_per_node
