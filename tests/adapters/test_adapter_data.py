"""What the shipped adapters do with a data set: which cases they refuse, and how they start the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlperf.adapters import mxnet, oneflow, pytorch
from dlperf.adapters.base import Adapter, Launch, RankPlacement
from dlperf.plan.case import Case, DataSet, Loss, Measure, Topology, Workload

EVERY_ADAPTER = pytest.mark.parametrize(
    ("adapter", "form", "other"),
    [
        (mxnet.ADAPTER, "recordio", "ofrecord"),
        (oneflow.ADAPTER, "ofrecord", "recordio"),
        (pytorch.ADAPTER, "recordio", "ofrecord"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
DATA = DataSet(
    path="/data/faces",
    read="warm",
    forms=("recordio", "ofrecord"),
    images=1000,
    classes=100,
    index_sha256="0" * 64,
)


def case(adapter: Adapter, data: DataSet | None, **changes: Any) -> Case:
    return Case(
        framework=adapter.name,
        version=adapter.versions[0],
        workload=Workload(
            experiment="y1_emore",
            network="mobilefacenet",
            head="GDC",
            embedding_size=128,
            dataset="emore",
            loss=Loss(kind="arcface", m2=0.5),
        ),
        parallelism="data",
        topology=Topology(nodes=1, devices_per_node=1),
        device="cpu",
        batch_size_per_device=8,
        num_classes=100,
        threads_per_device=8,
        measure=Measure(),
        data=data,
    ).changed(**changes)


@EVERY_ADAPTER
@pytest.mark.parametrize(
    ("changed", "changes", "reason"),
    [
        ({}, {}, None),
        ({}, {"num_classes": 99}, "labels of 100 classes, the classifier only 99"),
        ({}, {"batch_size_per_device": 1001}, "1000 images, fewer than the 1001 of a batch"),
        ({}, {"measure": Measure(measured_iterations=8)}, "take more than 8, or read: memory"),
        ({}, {"measure": Measure(measured_iterations=9)}, None),
        ({}, {"measure": Measure(measured_iterations=24), "threads_per_device": 64}, "more than 32"),
        ({"read": "memory"}, {"measure": Measure(measured_iterations=1)}, None),
    ],
)
def test_a_case_that_cannot_be_read_as_it_says_is_unsupported(
    adapter: Adapter,
    form: str,
    other: str,
    changed: dict[str, Any],
    changes: dict[str, Any],
    reason: str | None,
) -> None:
    del form, other
    said = adapter.unsupported(case(adapter, DATA.model_copy(update=changed), **changes))
    assert (reason is None) == (said is None)
    assert (reason or "") in (said or "")


@EVERY_ADAPTER
def test_the_other_form_alone_is_unsupported(adapter: Adapter, form: str, other: str) -> None:
    said = adapter.unsupported(case(adapter, DATA.model_copy(update={"forms": (other,)})))
    remedy = f"dlperf data convert /data/faces OUT --to {form}"
    assert f"it reads {form}, which /data/faces lacks: {remedy}" == said


@EVERY_ADAPTER
def test_the_program_is_watched_and_its_threads_are_shared_with_readers(
    adapter: Adapter, form: str, other: str
) -> None:
    del other
    placement = RankPlacement(
        rank=0, local_rank=0, node_rank=0, cpus=(), master_address="127.0.0.1", master_port=1234
    )
    argv, threads = [], []
    for data in (DATA, None):
        launch = Launch(
            case=case(adapter, data),
            case_file=Path("/run/case.json"),
            code=Path("/code"),
            python=Path("/python"),
            placements=(placement,),
        )
        (command,) = adapter.rank_commands(launch)
        argv.append(command.argv)
        threads.append((command.env["OMP_NUM_THREADS"], command.env["OPENBLAS_NUM_THREADS"]))

    program = f"frameworks.{adapter.name}.train"
    watch = ("/python", "-m", "frameworks.common.data_watch", program, "/run/case.json", form)
    assert [watch, ("/python", "-m", program, "/run/case.json")] == argv
    assert [("6", "6"), ("8", "8")] == threads
