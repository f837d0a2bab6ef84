"""The case of a foreign log: what its path, its text, a mapping file and `--set` say about it.

Nothing is guessed. Contradictions are named with both sources; what is missing is asked for, all at once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from dlperf.errors import SourceErrors, UserError
from dlperf.files import first_problem
from dlperf.importing.dialects.base import Dialect
from dlperf.plan.case import Case, Measure, Topology
from dlperf.plan.documents import files_by_name, unknown
from dlperf.plan.load import load_experiment
from dlperf.plan.sweep import ExperimentFile

# What it is called here -> what the programs call it.
_SPELLINGS = {
    "batch_size_per_device": ("batch_size_per_device", "per_batch_size"),
    "batch_size": ("batch_size",),
    "nodes": ("num_nodes", "node_num", "nnodes"),
    "devices_per_node": ("device_num_per_node", "gpu_num_per_node", "nproc_per_node", "ctx_num", "gpu num"),
    "world_size": ("world_size",),
    "num_classes": ("num_classes",),
    "sample_ratio": ("sample_ratio", "sample_rate"),
    "network": ("network",),
    "dataset": ("dataset",),
    "fp16": ("use_fp16", "fp16"),
    "model_parallel": ("model_parallel",),
    "partial_fc": ("partial_fc",),
}
_KEYS = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_NAMES = "|".join(sorted(map(re.escape, _KEYS), key=len, reverse=True)).encode()
_SETTING = re.compile(
    rb"(?<![\w.])(?:--)?(?P<key>" + _NAMES + rb")['\"]?(?:[ \t]*[:=][ \t]*|[ \t]+)"
    rb"['\"]?(?P<value>[A-Za-z0-9][\w.+-]*)"
)
_COUNTS = frozenset(
    {"batch_size_per_device", "batch_size", "nodes", "devices_per_node", "world_size", "num_classes"}
)
_SWITCHES = frozenset({"fp16", "model_parallel", "partial_fc"})
_ON, _OFF = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
_MOST_LINES = 5000
_MOST_DIGITS = 18  # no count of anything has more, and Python reads no number of thousands


class Preamble:
    """Collects settings from the lines before a log's first record; the first one of a name counts."""

    def __init__(self) -> None:
        self.settings: dict[str, tuple[str, int]] = {}  # name -> value, line
        self._lines = 0

    def feed(self, line: int, text: bytes) -> None:
        """Look at one line."""
        self._lines += 1
        if self._lines > _MOST_LINES:
            return
        for match in _SETTING.finditer(text):
            name = _KEYS[match["key"].decode()]
            value = _value(name, match["value"].decode())
            if value is not None:
                self.settings.setdefault(name, (value, line))


def _value(name: str, text: str) -> str | None:
    """The value in one spelling; None where it is impossible for this setting."""
    if name in _COUNTS:
        return str(int(text)) if text.isdigit() and len(text) <= _MOST_DIGITS and int(text) > 0 else None
    if name in _SWITCHES:
        lower = text.lower()
        return "1" if lower in _ON else "0" if lower in _OFF else None
    if name == "sample_ratio":
        try:
            return text if 0 < float(text) <= 1 else None
        except ValueError:
            return None
    return text.rstrip(".")


# 1n8g/r100_b64_fp32_1.log
_FOLDER = re.compile(r"(?P<topology>[1-9]\d*n[1-9]\d*g)")
_FILE = re.compile(
    r"(?P<network>[^_]+)_b(?P<batch_size_per_device>[1-9]\d*)_(?P<precision>fp32|fp16|bf16)_(?P<repeat>[1-9]\d*)\.log"
)
_NETWORKS = {"y1": "mobilefacenet", "fmobilefacenet": "mobilefacenet"}
_RESNET = re.compile(r"(?:i?res(?:net)?|r)(\d+)")
_DATASETS = {"emore": "face_emore", "faces_emore": "face_emore"}
DEFAULT_WARMUP_ITERATIONS = 20

# In the order in which they are asked for.
KEYS = {
    "framework": "oneflow, mxnet, pytorch, jax, ...",
    "version": "the framework's, such as 0.3.4",
    "experiment": "the workload, such as r100_emore",
    "parallelism": "data, model or partial_fc",
    "sample_ratio": "share of the classes, such as 0.1",
    "topology": "nodes and devices per node, such as 1n8g",
    "device": "cuda or cpu",
    "batch_size_per_device": "images per device",
    "precision": "fp32, fp16 or bf16",
    "num_classes": "of the classifier; default: the experiment's",
    "threads_per_device": "of a CPU, such as 8",
    "repeat": "number of the run, from 1",
    "warmup_iterations": f"not counted; default {DEFAULT_WARMUP_ITERATIONS}",
    "network": "r100, y1, ...; gives the experiment together with the dataset",
    "dataset": "emore, glint360k; gives the experiment together with the network",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and who says so."""

    value: str
    source: str


Facts = dict[str, Fact]


def facts_of_path(name: str) -> Facts:
    """What the 2021 layout `<N>n<G>g/<network>_b<batch>_<precision>_<run>.log` says; `name` as in `Log`."""
    parts = name.replace("!", "/").split("/")
    facts: Facts = {}
    file = _FILE.match(parts[-1])
    if file is not None:
        facts.update({key: Fact(value, f"file name {parts[-1]}") for key, value in file.groupdict().items()})
    folders = [match for part in parts[:-1] if (match := _FOLDER.fullmatch(part))]
    if folders:
        facts["topology"] = Fact(folders[-1]["topology"], f"folder {folders[-1]['topology']}")
        facts["device"] = Fact("cuda", f"folder {folders[-1]['topology']}")
    return facts


def facts_of_text(settings: Mapping[str, tuple[str, int]], dialect: Dialect) -> Facts:
    """What the log's own text says: the settings of its preamble, and the program that printed it."""
    said = {name: Fact(value, f"line {line}") for name, (value, line) in settings.items()}
    facts = {name: fact for name, fact in said.items() if name in KEYS}
    if dialect.framework is not None:
        facts["framework"] = Fact(dialect.framework, f"dialect {dialect.name}")
    if dialect.batch_size_is_per_device and "batch_size" in said:
        facts["batch_size_per_device"] = said["batch_size"]
    if "fp16" in said:
        facts["precision"] = Fact("fp16" if said["fp16"].value == "1" else "fp32", said["fp16"].source)
    return {**facts, **_topology(said), **_parallelism(said, dialect)}


def _topology(said: Facts) -> Facts:
    if "nodes" in said and "devices_per_node" in said:
        text = f"{said['nodes'].value}n{said['devices_per_node'].value}g"
        return {"topology": Fact(text, f"{said['nodes'].source} and {said['devices_per_node'].source}")}
    if "world_size" in said and said["world_size"].value == "1":
        return {"topology": Fact("1n1g", said["world_size"].source)}
    return {}


def _parallelism(said: Facts, dialect: Dialect) -> Facts:
    if dialect.parallelism is not None:
        return {"parallelism": Fact(dialect.parallelism, f"dialect {dialect.name}")}
    for switch, parallelism in (("partial_fc", "partial_fc"), ("model_parallel", "model")):
        if switch in said and said[switch].value == "1":
            return {"parallelism": Fact(parallelism, said[switch].source)}
    off = said.get("model_parallel", said.get("partial_fc"))
    return {} if off is None else {"parallelism": Fact("data", off.source)}


def facts_of_settings(settings: Mapping[str, str], source: str) -> Facts:
    """What the user says; UserError for a key that there is not."""
    for key in settings:
        if key not in KEYS:
            raise UserError(f"{source}: {unknown('key', key, KEYS)}")
    return {key: Fact(value, source) for key, value in settings.items()}


@dataclass(slots=True, kw_only=True)
class Rule:
    """A pattern of a mapping file and what it says; `source` is its file and line."""

    pattern: str
    facts: Facts
    source: str
    is_used: bool = False


def mapped(name: str, rules: Sequence[Rule]) -> Facts:
    """What the mapping file says about a log: of the patterns that match its name the later ones win."""
    facts: Facts = {}
    for rule in rules:
        if fnmatchcase(name, rule.pattern) or fnmatchcase(name, f"*/{rule.pattern}"):
            rule.is_used = True
            facts.update(rule.facts)
    return facts


def join(name: str, *sources: Facts, mapping: Facts) -> Facts:
    """All facts together; UserError where two contradict each other.

    The mapping file, which speaks of single files, wins.
    """
    joined = dict(mapping)
    for source in sources:
        for key, fact in source.items():
            other = joined.setdefault(key, fact)
            if key not in mapping and spelled(key, other.value) != spelled(key, fact.value):
                raise UserError(
                    f"{name}: {key}: {other.source} says {other.value}, {fact.source} says {fact.value}; "
                    "give the right one for this file in a mapping file (--map)"
                )
    return joined


def spelled(key: str, value: str) -> str:
    """The value as experiments spell it: `r100` is `iresnet100`."""
    if key == "network":
        match = _RESNET.fullmatch(value.lower())
        return f"iresnet{match[1]}" if match else _NETWORKS.get(value.lower(), value.lower())
    if key == "dataset":
        return _DATASETS.get(value.lower(), value.lower())
    return value


_MEASURED_ITERATIONS = 100
_FROM_1 = frozenset({"batch_size_per_device", "num_classes", "threads_per_device", "repeat"})
# A key, and what one of its values needs besides.
_NEED_MORE = (("parallelism", "partial_fc", "sample_ratio"), ("device", "cpu", "threads_per_device"))
_OPTIONAL = frozenset({"num_classes", "repeat", "warmup_iterations", "network", "dataset"})


class MissingSettings(UserError):
    """Something about a log is missing; `hints` says by key what to give."""

    def __init__(self, name: str, hints: Mapping[str, str]) -> None:
        self.name, self.hints = name, hints
        super().__init__(f"{name}: not known: {', '.join(hints)}; give them with --set or --map")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A log's case, its repeat if known, and which fields of the case hold a placeholder."""

    case: Case
    repeat: int | None
    warmup_iterations: int
    not_known: tuple[str, ...]


def describe(name: str, facts: Facts, *, folder: Path) -> Described:
    """The case of a log, from joined facts; experiments are looked up in `folder` first.

    UserError where something is missing or has an impossible value; the text says what to give.
    """
    if "experiment" not in facts and {"network", "dataset"} <= facts.keys():
        fitting = _fitting(facts, folder)
        if len(fitting) == 1:
            facts = {**facts, "experiment": Fact(fitting[0], "network and dataset")}
    missing = _missing(facts)
    if missing:
        raise MissingSettings(name, _hints(missing, facts, folder))
    try:
        return _described(facts, folder)
    except SourceErrors:
        raise
    except UserError as error:
        raise UserError(f"{name}: {error} ({facts['experiment'].source})") from error
    except ValidationError as error:
        raise UserError(f"{name}: {first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


@cache
def _experiment(name: str, folder: Path) -> ExperimentFile:
    """Read once for the logs of one import."""
    return load_experiment(name, folder=folder)[0]


def _fitting(facts: Facts, folder: Path) -> list[str]:
    """The experiments that have the network and the dataset, as far as they are known."""
    workloads = {
        name: _experiment(name, folder).workload for name in files_by_name("experiment", folders=(folder,))
    }
    known = [key for key in ("network", "dataset") if key in facts]
    return [
        name
        for name, workload in workloads.items()
        if all(spelled(key, facts[key].value) == getattr(workload, key) for key in known)
    ]


def _missing(facts: Facts) -> list[str]:
    optional = set(_OPTIONAL)
    for key, value, needed in _NEED_MORE:
        if key not in facts or facts[key].value != value:
            optional.add(needed)
    return [key for key in KEYS if key not in optional and key not in facts]


def _hints(missing: Sequence[str], facts: Facts, folder: Path) -> dict[str, str]:
    hints = {key: KEYS[key] for key in missing}
    if "experiment" in missing:
        hints["experiment"] = " or ".join(_fitting(facts, folder)) or KEYS["experiment"]
    for key, value, needed in _NEED_MORE:
        if key in missing and needed not in facts:
            hints[key] += f"; {value} also needs --set {needed}=... ({KEYS[needed]})"
    return hints


def _described(facts: Facts, folder: Path) -> Described:
    file = _experiment(facts["experiment"].value, folder)
    network = facts.get("network")
    if network is not None and spelled("network", network.value) != file.network:
        experiment = facts["experiment"].value
        raise ValueError(
            f"network: {network.source} says {network.value}, experiment {experiment} says {file.network}"
        )
    warmup = _whole(facts, "warmup_iterations", DEFAULT_WARMUP_ITERATIONS)
    partial = facts["parallelism"].value == "partial_fc"
    content = {
        **{key: facts[key].value for key in ("framework", "version", "parallelism", "precision", "device")},
        "workload": file.workload,
        "sample_ratio": _number(facts, "sample_ratio") if partial else None,
        "topology": Topology.from_text(facts["topology"].value),
        "batch_size_per_device": _whole(facts, "batch_size_per_device", 0),
        "num_classes": _whole(facts, "num_classes", file.num_classes),
        "threads_per_device": _whole(facts, "threads_per_device", 1),
        "measure": Measure(warmup_iterations=warmup, measured_iterations=_MEASURED_ITERATIONS),
    }
    threads = () if "threads_per_device" in facts else ("threads_per_device",)
    return Described(
        case=Case.model_validate(content),
        repeat=_whole(facts, "repeat", 1) if "repeat" in facts else None,
        warmup_iterations=warmup,
        not_known=("data", "measured_iterations", "seed", *threads),
    )


def _whole(facts: Facts, key: str, default: int) -> int:
    if key not in facts:
        return default
    text = facts[key].value
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise ValueError(f"{key}={text}: not a whole number, or far too large ({facts[key].source})")
    if key in _FROM_1 and not int(text):
        raise ValueError(f"{key}={text}: must be at least 1 ({facts[key].source})")
    return int(text)


def _number(facts: Facts, key: str) -> float:
    try:
        return float(facts[key].value)
    except ValueError as error:
        raise ValueError(f"{key}={facts[key].value}: not a number ({facts[key].source})") from error
