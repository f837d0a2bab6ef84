"""The case file as the training programs see it; `dlperf/plan/case.py` writes it and documents each field."""

import json
import os
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple


class Loss(NamedTuple):
    """The margin softmax: cos(m1 theta + m2) - m3 for the true class, times `scale`."""

    kind: str
    scale: float
    m1: float
    m2: float
    m3: float


class Optimizer(NamedTuple):
    """SGD; `decay` is coupled or decoupled, `no_decay` holds kinds of parameter: bias, batch_norm, prelu."""

    kind: str
    momentum: float
    weight_decay: float
    decay: str
    no_decay: Tuple[str, ...]


class Schedule(NamedTuple):
    """From iteration steps[i] on, the learning rate is `learning_rate` x scales[i]."""

    learning_rate: float
    steps: Tuple[int, ...]
    scales: Tuple[float, ...]


class DataSet(NamedTuple):
    """A data set in a folder. `read` is warm, cold or memory; `forms` are recordio, ofrecord or both."""

    path: str
    read: str
    forms: Tuple[str, ...]
    images: int
    classes: int
    index_sha256: str


class Case(NamedTuple):
    """One case, flat. Sizes are in samples and classes; `sample_ratio` is None outside Partial FC.

    `batch_norm` is `batch` or `frozen`: normalise by the running statistics and do not change them.
    """

    framework: str
    version: str
    experiment: str
    network: str
    head: str
    embedding_size: int
    dropout: float
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    classifier_init_std: float
    batch_norm: str
    parallelism: str
    sample_ratio: Optional[float]
    precision: str
    gradient_dtype: str
    nodes: int
    devices_per_node: int
    device: str
    batch_size_per_device: int
    num_classes: int
    threads_per_device: int
    warmup_iterations: int
    measured_iterations: int
    seed: int
    options: Dict[str, Any]
    data: Optional[DataSet] = None  # None: synthetic images

    @property
    def world_size(self) -> int:
        """Ranks over all nodes, each with one device."""
        return self.nodes * self.devices_per_node

    @property
    def global_batch_size(self) -> int:
        """Samples per iteration over all ranks."""
        return self.batch_size_per_device * self.world_size


def case_from_dict(content: Dict[str, Any]) -> Case:
    """Turn the JSON of a case file into a Case; KeyError names a missing field."""
    workload = content["workload"]
    optimizer, schedule = workload["optimizer"], workload["schedule"]
    defaults = {"batch_norm": "batch", "gradient_dtype": "float32"}  # which are not written
    values = {**defaults, **workload, **content["topology"], **content["measure"], **content}
    data = content.get("data")  # the workload has a key of this name too
    values["data"] = None if data is None else DataSet(**{**data, "forms": tuple(data["forms"])})
    values["loss"] = Loss(**workload["loss"])
    values["optimizer"] = Optimizer(**{**optimizer, "no_decay": tuple(optimizer["no_decay"])})
    values["schedule"] = Schedule(
        schedule["learning_rate"], tuple(schedule["steps"]), tuple(schedule["scales"])
    )
    return Case(**{name: values[name] for name in Case._fields})


def read_case(path: str) -> Case:
    """Read a case file; OSError, ValueError or KeyError if it is not one."""
    return case_from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


class Rank(NamedTuple):
    """This process's place, from the environment that the adapter sets.

    `rank`, `local_rank` and `world_size` count devices. A process drives `devices` of them, nearly always
    one, from `rank` and `local_rank` on. `interface` is the network interface between the nodes; None lets
    the engine choose.
    """

    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    devices: int
    master_address: str
    master_port: int
    interface: Optional[str]


def rank_from_environment() -> Rank:
    """Read DLPERF_RANK and the related variables; a process started by hand is rank 0 of 1."""
    get = os.environ.get
    return Rank(
        rank=int(get("DLPERF_RANK", "0")),
        local_rank=int(get("DLPERF_LOCAL_RANK", "0")),
        node_rank=int(get("DLPERF_NODE_RANK", "0")),
        world_size=int(get("DLPERF_WORLD_SIZE", "1")),
        local_world_size=int(get("DLPERF_LOCAL_WORLD_SIZE", "1")),
        devices=int(get("DLPERF_DEVICES", "1")),
        master_address=get("DLPERF_MASTER_ADDRESS", "127.0.0.1"),
        master_port=int(get("DLPERF_MASTER_PORT", "0")),
        interface=get("DLPERF_INTERFACE") or None,
    )


# How long an engine waits for another rank before it gives up: far longer than ranks differ in importing and
# compiling on a busy machine, far shorter than the engines' own defaults of half an hour.
RENDEZVOUS_SECONDS = 300
COLLECTIVE_SECONDS = 120
