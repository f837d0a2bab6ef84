"""A small case, for the tests of what the training programs share."""

from __future__ import annotations

import pytest

from dlperf.plan.case import Case, Loss, Measure, Topology, Workload


@pytest.fixture
def case_content() -> dict:
    """The JSON of a small MobileFaceNet case, as dlperf writes it."""
    workload = Workload(
        experiment="y1_emore",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset="emore",
        loss=Loss(kind="arcface", m2=0.5),
    )
    case = Case(
        framework="pytorch",
        version="2.13.0",
        workload=workload,
        parallelism="data",
        topology=Topology.from_text("1n1g"),
        device="cpu",
        batch_size_per_device=4,
        num_classes=100,
        threads_per_device=2,
        measure=Measure(warmup_iterations=1, measured_iterations=2),
    )
    return case.model_dump(mode="json")
