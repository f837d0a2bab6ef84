"""What a case is asked to do, without who does it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlperf.plan.case import Case


def cell_name(case: Case) -> str:
    """Such as `y1_emore data 1n1g b128 c85742 fp32`; `bmax` where the largest was searched for."""
    ratio = f"{case.sample_ratio:g}" if case.sample_ratio is not None else ""
    return (
        f"{case.workload.experiment} {case.parallelism}{ratio} {case.topology} "
        f"b{case.size('batch_size_per_device')} c{case.size('num_classes')} {case.precision}"
    )
