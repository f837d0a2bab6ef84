"""The case that is aligned: the experiment with what must be smaller or fixed for a proof.

What is trained is the experiment's network, head, loss and optimizer by the same programs. What differs (and
docs/alignment.md says why): no dropout, few classes, a small batch, probe weights, a small learning rate with
a large weight decay, and the first step of the schedule brought forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dlperf.align.modes import ON_ONE_DEVICE
from dlperf.plan.case import Case, Measure, Schedule

if TYPE_CHECKING:
    from dlperf.align.modes import Mode
    from dlperf.plan.case import DeviceKind, Workload

# One step turns the probe's weights by a few percent at most.
LEARNING_RATE: Final = 2e-5
# Learning rate x weight decay: each step shrinks what decays by a thousandth, well above rounding.
SHRINKAGE: Final = 1e-3
# The iteration, from 0, from which the schedule's first scale holds.
RATE_CHANGE: Final = 3

_BATCH_SIZES = {"mobilefacenet": 4}
_BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person may choose; None follows the network.

    `global_devices` are those of the largest topology: `batch_size` is a device's there, and a contender with
    fewer devices takes the same global batch. `cores` are shared out among the devices.
    """

    steps: int = 5
    batch_size: int | None = None
    num_classes: int = 1000
    cores: int = 1
    global_devices: int = 1
    frozen_batch_norm: bool = False
    device: DeviceKind = "cpu"
    seed: int = 0


def probe_case(
    workload: Workload, *, framework: str, version: str, settings: Settings, mode: Mode = ON_ONE_DEVICE
) -> Case:
    """What `framework` trains in `mode` to be compared."""
    decays = workload.optimizer.weight_decay > 0
    optimizer = workload.optimizer.model_copy(
        update={"weight_decay": SHRINKAGE / LEARNING_RATE if decays else 0.0}
    )
    probe = workload.model_copy(
        update={
            "dropout": 0.0,
            "optimizer": optimizer,
            "schedule": _schedule(workload.schedule),
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
        batch_size_per_device=size * settings.global_devices // devices,
        num_classes=settings.num_classes,
        threads_per_device=max(1, settings.cores // devices),
        measure=Measure(warmup_iterations=0, measured_iterations=settings.steps),
        seed=settings.seed,
    )


def _schedule(schedule: Schedule) -> Schedule:
    if not schedule.steps:
        return Schedule(learning_rate=LEARNING_RATE)
    return Schedule(learning_rate=LEARNING_RATE, steps=(RATE_CHANGE,), scales=schedule.scales[:1])
