"""The case that is aligned: the experiment with what must be smaller or fixed for a proof.

What is trained is the experiment's network, head, loss and optimizer by the same programs. What differs (and
docs/alignment.md says why): no dropout, few classes, a small batch, probe weights, a small learning rate with
a large weight decay, and the first step of the schedule brought forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dlperf.plan.case import Case, Measure, Schedule, Topology

if TYPE_CHECKING:
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
    """What a person may choose; None follows the network."""

    steps: int = 5
    batch_size: int | None = None
    num_classes: int = 1000
    threads: int = 1
    device: DeviceKind = "cpu"
    seed: int = 0


def probe_case(workload: Workload, *, framework: str, version: str, settings: Settings) -> Case:
    """What `framework` trains to be compared."""
    decays = workload.optimizer.weight_decay > 0
    optimizer = workload.optimizer.model_copy(
        update={"weight_decay": SHRINKAGE / LEARNING_RATE if decays else 0.0}
    )
    probe = workload.model_copy(
        update={"dropout": 0.0, "optimizer": optimizer, "schedule": _schedule(workload.schedule)}
    )
    return Case(
        framework=framework,
        version=version,
        workload=probe,
        parallelism="data",
        topology=Topology(nodes=1, devices_per_node=1),
        device=settings.device,
        batch_size_per_device=settings.batch_size or _BATCH_SIZES.get(workload.network, _BATCH_SIZE),
        num_classes=settings.num_classes,
        threads_per_device=settings.threads,
        measure=Measure(warmup_iterations=0, measured_iterations=settings.steps),
        seed=settings.seed,
    )


def _schedule(schedule: Schedule) -> Schedule:
    if not schedule.steps:
        return Schedule(learning_rate=LEARNING_RATE)
    return Schedule(learning_rate=LEARNING_RATE, steps=(RATE_CHANGE,), scales=schedule.scales[:1])
