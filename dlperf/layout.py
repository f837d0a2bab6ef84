"""Where results lie: the names of the files of a sweep and of a run, which docs/formats.md describes.

Results folders hold sweeps, sweeps hold runs/<case_id>/r<repeat>.
"""

import itertools
import os
import re
from pathlib import Path
from typing import Final

from dlperf.errors import UserError

# In the folder of a sweep.
LOCK_NAME: Final = "plan.lock.json"
RUNS_FOLDER: Final = "runs"
LIMITS_FOLDER: Final = "limits"
CERTIFICATE_NAME: Final = "align.json"
CERTIFICATE_NAMES: Final = "align*.json"  # with those of several devices
EQUALITY_NAME: Final = "equality.json"  # of the nodes of a cluster
RESULTS_LOCK_NAME: Final = ".dlperf.lock"
SLURM_FOLDER: Final = "slurm"  # scripts, outputs and locks of jobs
# In the folder of a run. A run of several nodes has one launch and one outcome per node too: see `node_file`.
CASE_NAME: Final = "case.json"
LAUNCH_NAME: Final = "launch.json"
ENVIRONMENT_NAME: Final = "environment.json"
OUTCOME_NAME: Final = "outcome.json"
LOGS_FOLDER: Final = "logs"
TELEMETRY_NAME: Final = "telemetry.csv"  # of each node: see `node_file`
STEPS_NAME: Final = "steps.csv"
RESULT_NAME: Final = "result.json"
IMPORT_NAME: Final = "import.json"  # of an imported run
# In the cache, and on nodes in their working folder: of original programs, by content hash.
SOURCES_FOLDER: Final = "sources"
# In the folder of a search for a limit, beside runs/.
LIMIT_NAME: Final = "limit.json"
# Of measurements of nodes: results/measurements/<cluster>/<time>/measurement.json.
MEASUREMENTS_FOLDER: Final = "measurements"
MEASUREMENT_NAME: Final = "measurement.json"
# In the folder of baselines.
NOISE_PROFILE_NAME: Final = "qualification.json"

MOST_TELEMETRY_BYTES: Final = 16 << 20  # twice what a sampler writes

_UNREADABLE = ".unreadable-"
_REPEAT = re.compile(r"r([0-9]{1,9})")
_TELEMETRY = re.compile(r"telemetry(?:\.node(\d{1,6}))?\.csv")
_LOG = re.compile(r"rank(\d+)\.log")


def sweep_folders(path: Path) -> list[Path]:
    """A sweep's folder itself, or the sweeps in a results folder; UserError where `path` is no folder."""
    if not path.exists():
        raise UserError(f"{path}: no such folder; `dlperf run SWEEP` makes one with results")
    if not path.is_dir():
        raise UserError(f"{path}: a file; give a results folder or the folder of a sweep")
    if _is_sweep(path):
        return [path]
    return [child for child in path.iterdir() if child.is_dir() and _is_sweep(child)]


def _is_sweep(folder: Path) -> bool:
    return (folder / RUNS_FOLDER).is_dir() or (folder / LOCK_NAME).is_file()


def run_folder(sweep: Path, *, case_id: str, repeat: int) -> Path:
    """Where one run of a case lies."""
    return sweep / RUNS_FOLDER / case_id / run_name(repeat)


def run_name(repeat: int) -> str:
    """The name of a run folder."""
    return f"r{repeat}"


def run_folders(sweep: Path) -> list[Path]:
    """Of all cases, by name."""
    runs = sweep / RUNS_FOLDER
    if not runs.is_dir():
        return []
    return [
        folder / run
        for folder in (runs / case for case in _folders_in(runs))
        for run in _folders_in(folder)
        if _UNREADABLE not in run
    ]


def _folders_in(folder: Path) -> list[str]:
    """Names, in order; a link that leads nowhere, or to itself, is no folder."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if (Path(entry).is_dir() if entry.is_symlink() else entry.is_dir())
        )


def set_aside_name(folder: Path) -> Path:
    """The next free name for a run folder whose result cannot be read: `r1.unreadable-1`."""
    names = (folder.with_name(f"{folder.name}{_UNREADABLE}{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def limit_folder(sweep: Path, case_id: str) -> Path:
    """Where the search for the largest value of a case lies."""
    return sweep / LIMITS_FOLDER / case_id


def repeat_of(folder: Path) -> int | None:
    """The repeat in a run folder's name; None where it has another name."""
    match = _REPEAT.fullmatch(folder.name)
    return None if match is None else int(match[1])


def require_repeat(folder: Path) -> int:
    """The repeat in a run folder's name; UserError where it has another name."""
    repeat = repeat_of(folder.resolve())
    if repeat is None:
        raise UserError(f"{folder}: a run folder is named r<repeat>, such as r1")
    return repeat


def node_file(name: str, *, node_rank: int, nodes: int) -> str:
    """A node's own file: `outcome.json`, or `outcome.node1.json` where a run has several nodes."""
    stem, dot, suffix = name.rpartition(".")
    return name if nodes == 1 else f"{stem}.node{node_rank}{dot}{suffix}"


def launch_files(folder: Path) -> list[Path]:
    """The launch files of a run folder, one per node, by name."""
    return sorted(folder.glob(LAUNCH_NAME.replace(".", "*.")))


def is_telemetry(name: str) -> bool:
    """Whether a file of a run folder holds what a node's sampler wrote."""
    return _TELEMETRY.fullmatch(name) is not None


def telemetry_files(folder: Path) -> dict[int, Path]:
    """What the samplers of a run wrote, by node rank."""
    found = ((match, folder / name) for name in os.listdir(folder) if (match := _TELEMETRY.fullmatch(name)))  # noqa: PTH208
    return dict(sorted((int(match[1] or 0), path) for match, path in found))


def log_name(rank: int) -> str:
    """A rank's log, seen from the run folder."""
    return f"{LOGS_FOLDER}/rank{rank}.log"


def log_files(folder: Path) -> dict[int, Path]:
    """The logs of a run folder by rank, in the order of the ranks; empty where there is none."""
    logs = folder / LOGS_FOLDER
    if not logs.is_dir():
        return {}
    found = ((match, path) for path in logs.iterdir() if (match := _LOG.fullmatch(path.name)))
    return dict(sorted((int(match[1]), path) for match, path in found))
