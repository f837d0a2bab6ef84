"""Who takes part in an alignment, in which ways to spread a case over devices, and what each trains."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dlperf.adapters.base import Adapter, EnvironmentSpec
from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable, UserError
from dlperf.files import shipped_root
from dlperf.layout import CERTIFICATE_NAME
from dlperf.plan.case import Case, DeviceKind, Measure, Parallelism, Precision, Schedule, Topology, Workload

# One step turns the probe's weights by a few percent at most.
LEARNING_RATE: Final = 2e-5
# Learning rate x weight decay: each step shrinks what decays by a thousandth, well above rounding.
SHRINKAGE: Final = 1e-3
# The iteration, from 0, from which the schedule's first scale holds.
RATE_CHANGE: Final = 3

_BATCH_SIZES: Final = {"mobilefacenet": 4}
_BATCH_SIZE: Final = 2
_ONE_DEVICE: Final = Topology(nodes=1, devices_per_node=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to spread a case over devices."""

    parallelism: Parallelism = "data"
    topology: Topology = _ONE_DEVICE
    sample_ratio: float | None = None  # of partial_fc alone

    def __str__(self) -> str:
        ratio = "" if self.sample_ratio is None else f"-{self.sample_ratio:g}"
        return f"{self.parallelism}{ratio} {self.topology}"


ON_ONE_DEVICE: Final = Mode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework in a version that is asked to take part."""

    name: str  # as in results, such as `mxnet==1.9.1` or `mxnet==1.9.1+wheel.0a1b2c3d`
    adapter: Adapter
    spec: EnvironmentSpec  # what must be installed
    python: Path | None = None  # an interpreter of the user's own, in which it is installed


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A framework whose environment is ready, in one mode."""

    name: str  # as in tables, such as `mxnet==1.9.1`
    version: str  # as the engine itself prints it
    adapter: Adapter
    python: Path  # the interpreter of its environment
    code: Path  # the folder that holds `frameworks/`
    mode: Mode = ON_ONE_DEVICE
    is_reference: bool = False  # it computes in float64, in one process that stands for all devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person may choose; None follows the network.

    `global_devices` are those of the largest topology: `batch_size` is per device there, and a participant
    with fewer devices takes the same global batch. The devices share the `cores`.
    """

    steps: int = 5
    batch_size: int | None = None
    num_classes: int = 1000
    cores: int = 1
    global_devices: int = 1
    frozen_batch_norm: bool = False
    device: DeviceKind = "cpu"
    precision: Precision = "fp32"
    seed: int = 0


def participants_of(
    frameworks: Sequence[Framework], modes: Sequence[Mode], *, held: ExitStack, say: Callable[[str], None]
) -> tuple[list[Participant], dict[str, str]]:
    """Each framework whose environment is ready, in each mode, and the others by name with the reason.

    `held` keeps the environments from being removed until it is closed; `say` is called with each line of
    progress. EnvironmentUnavailable where none is left.
    """
    participants, absent = [], {}
    for framework in frameworks:
        try:
            environment = ensure(framework.spec, python=framework.python, report=say)
            held.enter_context(environment.in_use())
        except EnvironmentUnavailable as error:
            say(f"{framework.name}: {error}")
            absent[framework.name] = str(error)
            continue
        participants += [
            Participant(
                name=framework.name if tuple(modes) == (ON_ONE_DEVICE,) else f"{framework.name} {mode}",
                version=environment.manifest.version,
                adapter=framework.adapter,
                python=environment.python,
                code=shipped_root(),
                mode=mode,
            )
            for mode in modes
        ]
    if not participants:
        reasons = "; ".join(f"{name}: {why}" for name, why in absent.items())
        raise EnvironmentUnavailable(f"no framework to align: {reasons}")
    return participants, absent


def comparable_modes(
    parallelisms: Sequence[Parallelism],
    topologies: Sequence[Topology],
    *,
    sample_ratio: float,
    frozen_batch_norm: bool,
) -> tuple[Mode, ...]:
    """Every parallelism on every topology; UserError where they do not compute one function here."""
    largest = max(topology.world_size for topology in topologies)
    for topology in topologies:
        if topology.nodes > 1:
            raise UserError(f"--topology: {topology} has several nodes; an alignment runs on this machine")
        if largest % topology.world_size:
            raise UserError(
                f"--topology: {topology.world_size} devices cannot share the global batch of {largest} "
                "evenly; take numbers that divide the largest"
            )
    if len({topology.world_size for topology in topologies}) > 1 and not frozen_batch_norm:
        raise UserError(
            "--topology: BatchNorm normalises each device's own images, so different numbers of devices "
            "compute different functions; give one topology, or --frozen-batch-norm"
        )
    sampled = "partial_fc" in parallelisms and sample_ratio < 1
    if sampled and (len(parallelisms) > 1 or len(topologies) > 1):
        raise UserError(
            "--sample-ratio: below 1 partial_fc computes another function than the others, and samples by "
            "the number of devices; align it alone on one topology"
        )
    return tuple(
        Mode(
            parallelism=parallelism,
            topology=topology,
            sample_ratio=sample_ratio if parallelism == "partial_fc" else None,
        )
        for parallelism, topology in itertools.product(parallelisms, topologies)
    )


def certificate_name(modes: Sequence[Mode], *, frozen_batch_norm: bool, precision: Precision = "fp32") -> str:
    """`align.json` for fp32 data parallel on one device; else a name with what differs: all can stay."""
    if list(modes) == [ON_ONE_DEVICE] and not frozen_batch_norm and precision == "fp32":
        return CERTIFICATE_NAME
    parallelisms = dict.fromkeys(str(mode).partition(" ")[0] for mode in modes)
    topologies = dict.fromkeys(str(mode.topology) for mode in modes)
    frozen = ["frozen"] if frozen_batch_norm else []
    mixed = [] if precision == "fp32" else [precision]
    return "-".join(["align", *parallelisms, *topologies, *frozen, *mixed]) + ".json"


def probe_case(
    workload: Workload, *, framework: str, version: str, settings: Settings, mode: Mode = ON_ONE_DEVICE
) -> Case:
    """What `framework` trains in `mode`: the experiment, with what must be smaller or fixed for a proof.

    Network, head, loss, optimizer and programs are those of the experiment. What differs (docs/alignment.md
    says why): no dropout, few classes, a small batch, probe weights, a small learning rate with a large
    weight decay, and an early first step of the schedule.
    """
    decays = workload.optimizer.weight_decay > 0
    optimizer = workload.optimizer.model_copy(
        update={"weight_decay": SHRINKAGE / LEARNING_RATE if decays else 0.0}
    )
    probe = workload.model_copy(
        update={
            "dropout": 0.0,
            "optimizer": optimizer,
            "schedule": Schedule(
                learning_rate=LEARNING_RATE,
                steps=(RATE_CHANGE,) if workload.schedule.steps else (),
                scales=workload.schedule.scales[:1],
            ),
            "batch_norm": "frozen" if settings.frozen_batch_norm else workload.batch_norm,
        }
    )
    devices = mode.topology.world_size
    size = settings.batch_size or _BATCH_SIZES.get(workload.network, _BATCH_SIZE)
    return Case(
        framework=framework,
        version=version,
        workload=probe,
        parallelism=mode.parallelism,
        sample_ratio=mode.sample_ratio,
        topology=mode.topology,
        device=settings.device,
        precision=settings.precision,
        batch_size_per_device=size * settings.global_devices // devices,
        num_classes=settings.num_classes,
        threads_per_device=max(1, settings.cores // devices),
        measure=Measure(warmup_iterations=0, measured_iterations=settings.steps),
        seed=settings.seed,
    )
