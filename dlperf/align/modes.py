"""How a contender of an alignment is spread over devices, and which ways can be held against each other."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dlperf.errors import UserError
from dlperf.plan.case import Topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.plan.case import Parallelism

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


def modes(
    parallelisms: Sequence[Parallelism],
    topologies: Sequence[Topology],
    *,
    sample_ratio: float,
    frozen_batch_norm: bool,
) -> tuple[Mode, ...]:
    """Every parallelism on every topology, where they compute one function.

    Raises:
        UserError: they do not, and why; or a topology is not of this machine.
    """
    _must_be_comparable(parallelisms, topologies, sample_ratio, frozen_batch_norm=frozen_batch_norm)
    return tuple(
        Mode(
            parallelism=parallelism,
            topology=topology,
            sample_ratio=sample_ratio if parallelism == "partial_fc" else None,
        )
        for parallelism, topology in itertools.product(parallelisms, topologies)
    )


def _must_be_comparable(
    parallelisms: Sequence[Parallelism],
    topologies: Sequence[Topology],
    sample_ratio: float,
    *,
    frozen_batch_norm: bool,
) -> None:
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
            "--topology: BatchNorm normalises each device's own images, so that other numbers of devices "
            "compute another function; give one topology, or --frozen-batch-norm"
        )
    sampled = "partial_fc" in parallelisms and sample_ratio < 1
    if sampled and (len(parallelisms) > 1 or len(topologies) > 1):
        raise UserError(
            "--sample-ratio: below 1 partial_fc computes another function than the others, and samples by "
            "the number of devices; align it by itself on one topology"
        )


def certificate_name(chosen: Sequence[Mode], *, frozen_batch_norm: bool) -> str:
    """`align.json` for data parallel on one device; else a name that tells, so that both can stay."""
    if list(chosen) == [ON_ONE_DEVICE] and not frozen_batch_norm:
        return "align.json"
    parallelisms = dict.fromkeys(str(mode).partition(" ")[0] for mode in chosen)
    topologies = dict.fromkeys(str(mode.topology) for mode in chosen)
    frozen = ["frozen"] if frozen_batch_norm else []
    return "-".join(["align", *parallelisms, *topologies, *frozen]) + ".json"
