"""A case of a shipped workload, and its launch as dlperf hands it to an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlperf.adapters.base import Launch, RankPlacement
from dlperf.plan.case import Case, Loss, Measure, Topology, Workload

if TYPE_CHECKING:
    from dlperf.adapters.base import Adapter


def workload(**changes: Any) -> Workload:
    content = {
        "experiment": "y1_emore",
        "network": "mobilefacenet",
        "head": "GDC",
        "embedding_size": 128,
        "dataset": "emore",
        "loss": Loss(kind="arcface", m2=0.5),
    }
    return Workload.model_validate({**content, **changes})


def case_of(adapter: Adapter, *, devices: int = 1, **changes: Any) -> Case:
    content = {
        "framework": adapter.name,
        "version": adapter.versions[0],
        "workload": workload(),
        "parallelism": "data",
        "sample_ratio": 0.1 if changes.get("parallelism") == "partial_fc" else None,
        "topology": Topology(nodes=1, devices_per_node=devices),
        "device": "cpu",
        "batch_size_per_device": 8,
        "num_classes": 100,
        "threads_per_device": 2,
        "measure": Measure(),
    }
    return Case.model_validate({**content, **changes})


def launch_of(case: Case, *, interface: str | None = None) -> Launch:
    per_node = case.topology.devices_per_node
    placements = tuple(
        RankPlacement(
            rank=rank,
            local_rank=rank % per_node,
            node_rank=rank // per_node,
            cpus=(rank,),
            master_address="10.0.0.1",
            master_port=1234,
            interface=interface,
        )
        for rank in range(case.topology.world_size)
    )
    return Launch(
        case=case,
        case_file=Path("/run/case.json"),
        code=Path("/code"),
        python=Path("/environment/bin/python"),
        placements=placements,
    )
