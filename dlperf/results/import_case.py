"""The case of an imported log, from what is known about it. What nobody tells is asked for, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf.documents import first_problem
from dlperf.errors import SourceErrors, UserError
from dlperf.plan.case import Case, Measure, Topology
from dlperf.plan.files import known_names
from dlperf.plan.load import load_experiment
from dlperf.results.import_facts import DEFAULT_WARMUP_ITERATIONS, KEYS, spelled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.plan.experiment_file import ExperimentFile
    from dlperf.results.import_facts import Facts

_MEASURED_ITERATIONS = 100
_MOST_DIGITS = 18
_FROM_1 = frozenset({"batch_size_per_device", "num_classes", "threads_per_device", "repeat"})
_ALWAYS_NEEDED = (
    "framework",
    "version",
    "experiment",
    "parallelism",
    "topology",
    "device",
    "batch_size_per_device",
    "precision",
)


class NotTold(UserError):
    """Something about a log that nobody tells; `question` is the same for logs that lack the same."""

    def __init__(self, name: str, question: str) -> None:
        self.name, self.question = name, question
        super().__init__(f"{name}: {question}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A log's case, its repeat if told, and what holds a placeholder in the case: nobody can tell."""

    case: Case
    repeat: int | None
    warmup_iterations: int
    not_known: tuple[str, ...]


def describe(name: str, facts: Facts, *, folder: Path) -> Described:
    """The case of a log.

    Args:
        name: the log's, for messages.
        facts: joined.
        folder: where the user stands; experiments are looked up there first.

    Raises:
        UserError: something is missing or no value of its key; the text says what to give.
    """
    experiments = known_names("experiment", folders=(folder,))
    experiment = (
        facts["experiment"].value if "experiment" in facts else _told_experiment(facts, experiments, folder)
    )
    missing = _missing(facts, experiment)
    if missing:
        asked = " ".join(f"--set {key}=..." for key in missing)
        hints = "; ".join(f"{key}: {_hint(key, facts, experiments, folder)}" for key in missing)
        raise NotTold(name, f"cannot tell {', '.join(missing)}; add {asked} ({hints})")
    if experiment is None:
        raise AssertionError("asked for above")
    try:
        _check_network(name, facts, experiment, folder)
        return _described(facts, experiment, folder)
    except ValidationError as error:
        raise UserError(f"{name}: {first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


@cache
def _experiment(name: str, folder: Path) -> ExperimentFile:
    """Read once for the logs of one import."""
    return load_experiment(name, folder=folder)[0]


def _check_network(name: str, facts: Facts, experiment: str, folder: Path) -> None:
    try:
        workload = _experiment(experiment, folder).workload
    except SourceErrors:
        raise
    except UserError as error:
        raise UserError(f"{name}: {error} ({facts['experiment'].source})") from error
    told = facts.get("network")
    if told is not None and spelled("network", told.value) != workload.network:
        raise UserError(
            f"{name}: contradictory network: {told.value} says {told.source}, "
            f"{workload.network} says experiment {experiment}"
        )


def _missing(facts: Facts, experiment: str | None) -> list[str]:
    needed = list(_ALWAYS_NEEDED)
    if "parallelism" in facts and facts["parallelism"].value == "partial_fc":
        needed.append("sample_ratio")
    if "device" in facts and facts["device"].value == "cpu":
        needed.append("threads_per_device")
    return [
        key for key in KEYS if key in needed and key not in facts and not (key == "experiment" and experiment)
    ]


def _hint(key: str, facts: Facts, experiments: Sequence[str], folder: Path) -> str:
    if key == "experiment":
        return " or ".join(_fitting(facts, experiments, folder)) or KEYS[key]
    return KEYS[key]


def _told_experiment(facts: Facts, experiments: Sequence[str], folder: Path) -> str | None:
    if "network" not in facts or "dataset" not in facts:
        return None
    fitting = _fitting(facts, experiments, folder)
    return fitting[0] if len(fitting) == 1 else None


def _fitting(facts: Facts, experiments: Sequence[str], folder: Path) -> list[str]:
    """The experiments that the network and the dataset leave."""
    fitting = []
    for name in experiments:
        workload = _experiment(name, folder).workload
        network = "network" not in facts or spelled("network", facts["network"].value) == workload.network
        dataset = "dataset" not in facts or spelled("dataset", facts["dataset"].value) == workload.dataset
        if network and dataset:
            fitting.append(name)
    return fitting


def _described(facts: Facts, experiment: str, folder: Path) -> Described:
    file = _experiment(experiment, folder)
    warmup = _whole(facts, "warmup_iterations", DEFAULT_WARMUP_ITERATIONS)
    partial = facts["parallelism"].value == "partial_fc"
    not_known = ["data", "measured_iterations", "seed"] + ["threads_per_device"] * (
        "threads_per_device" not in facts
    )
    content = {
        "framework": facts["framework"].value,
        "version": facts["version"].value,
        "workload": file.workload,
        "parallelism": facts["parallelism"].value,
        "sample_ratio": _number(facts, "sample_ratio") if partial else None,
        "precision": facts["precision"].value,
        "topology": Topology.from_text(facts["topology"].value),
        "device": facts["device"].value,
        "batch_size_per_device": _whole(facts, "batch_size_per_device", 0),
        "num_classes": _whole(facts, "num_classes", file.num_classes),
        "threads_per_device": _whole(facts, "threads_per_device", 1),
        "measure": Measure(warmup_iterations=warmup, measured_iterations=_MEASURED_ITERATIONS),
    }
    return Described(
        case=Case.model_validate(content),
        repeat=_whole(facts, "repeat", 1) if "repeat" in facts else None,
        warmup_iterations=warmup,
        not_known=tuple(not_known),
    )


def _whole(facts: Facts, key: str, default: int) -> int:
    if key not in facts:
        return default
    text = facts[key].value
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise ValueError(f"{key}={text}: no whole number that there can be ({facts[key].source})")
    if key in _FROM_1 and not int(text):
        raise ValueError(f"{key}={text}: counts from 1 ({facts[key].source})")
    return int(text)


def _number(facts: Facts, key: str) -> float:
    try:
        return float(facts[key].value)
    except ValueError as error:
        raise ValueError(f"{key}={facts[key].value}: no number ({facts[key].source})") from error
