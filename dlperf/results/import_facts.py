"""What is known about the case of an imported log, from its path, its text, a mapping file and `--set`.

Nothing is guessed; where two of them contradict each other, both are named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.plan.validation import unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.importing.dialects.base import Dialect

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
    "framework": "oneflow, mxnet, pytorch, ...",
    "version": "the framework's, such as 0.3.4",
    "experiment": "the workload, such as r100_emore",
    "parallelism": "data, model or partial_fc",
    "sample_ratio": "of partial_fc, such as 0.1",
    "topology": "nodes and devices a node, such as 1n8g",
    "device": "cuda or cpu",
    "batch_size_per_device": "images a device",
    "precision": "fp32, fp16 or bf16",
    "num_classes": "of the classifier; else the experiment's",
    "threads_per_device": "of a CPU run",
    "repeat": "number of the run, from 1",
    "warmup_iterations": f"left out at the beginning; {DEFAULT_WARMUP_ITERATIONS} unless told",
    "network": "r100, y1, ...: tells the experiment together with the dataset",
    "dataset": "emore, glint360k: tells the experiment together with the network",
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
    told = {name: Fact(value, f"line {line}") for name, (value, line) in settings.items()}
    facts = {name: fact for name, fact in told.items() if name in KEYS}
    if dialect.framework is not None:
        facts["framework"] = Fact(dialect.framework, f"dialect {dialect.name}")
    if dialect.batch_size_is_per_device and "batch_size" in told:
        facts["batch_size_per_device"] = told["batch_size"]
    if "fp16" in told:
        facts["precision"] = Fact("fp16" if told["fp16"].value == "1" else "fp32", told["fp16"].source)
    facts.update(_told_topology(told))
    facts.update(_told_parallelism(told, dialect))
    return facts


def _told_topology(told: Facts) -> Facts:
    if "nodes" in told and "devices_per_node" in told:
        text = f"{told['nodes'].value}n{told['devices_per_node'].value}g"
        return {"topology": Fact(text, f"{told['nodes'].source} and {told['devices_per_node'].source}")}
    if "world_size" in told and told["world_size"].value == "1":
        return {"topology": Fact("1n1g", told["world_size"].source)}
    return {}


def _told_parallelism(told: Facts, dialect: Dialect) -> Facts:
    if dialect.parallelism is not None:
        return {"parallelism": Fact(dialect.parallelism, f"dialect {dialect.name}")}
    if "model_parallel" not in told and "partial_fc" not in told:
        return {}
    partial, model = (told.get(name, Fact("0", "")) for name in ("partial_fc", "model_parallel"))
    if partial.value == "1":
        return {"parallelism": Fact("partial_fc", partial.source)}
    if model.value == "1":
        return {"parallelism": Fact("model", model.source)}
    source = told.get("model_parallel", partial).source
    return {"parallelism": Fact("data", source)}


def facts_of_settings(settings: Mapping[str, str], source: str) -> Facts:
    """What the user says; UserError for a key that there is not."""
    for key in settings:
        if key not in KEYS:
            raise UserError(f"{source}: {unknown('key', key, KEYS)}")
    return {key: Fact(value, source) for key, value in settings.items()}


def mapped(name: str, rules: Sequence[tuple[str, Facts]]) -> Facts:
    """What the mapping file says about a log: all patterns that fit its name, the later ones on top."""
    facts: Facts = {}
    for pattern, told in rules:
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"*/{pattern}"):
            facts.update(told)
    return facts


def join(name: str, *sources: Facts, mapping: Facts) -> Facts:
    """All facts together; the mapping file, which speaks of single files, wins.

    Raises:
        UserError: two sources contradict each other.
    """
    joined = dict(mapping)
    for source in sources:
        for key, fact in source.items():
            other = joined.setdefault(key, fact)
            if key not in mapping and spelled(key, other.value) != spelled(key, fact.value):
                raise UserError(
                    f"{name}: contradictory {key}: {other.value} says {other.source}, {fact.value} says "
                    f"{fact.source}; give the right one for this file in a mapping file (--map)"
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
