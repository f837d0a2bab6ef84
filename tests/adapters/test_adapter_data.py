"""What the shipped adapters do with a data set: which cases they refuse, and how they start the others."""

from __future__ import annotations

from typing import Any

import pytest
from cases import case_of, launch_of

from dlperf.adapters import jax, mxnet, oneflow, pytorch
from dlperf.adapters.base import Adapter
from dlperf.plan.case import Case, DataSet, Measure

EVERY_ADAPTER = pytest.mark.parametrize(
    ("adapter", "form", "other"),
    [
        (jax.ADAPTER, "recordio", "ofrecord"),
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
    return case_of(adapter, **{"threads_per_device": 8, "data": data, **changes})


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
    argv, threads = [], []
    for data in (DATA, None):
        (command,) = adapter.rank_commands(launch_of(case(adapter, data)))
        argv.append(command.argv)
        threads.append((command.env["OMP_NUM_THREADS"], command.env["OPENBLAS_NUM_THREADS"]))

    program = f"frameworks.{adapter.name}.train"
    watch = ("/environment/bin/python", "-m", "frameworks.common.data_watch", program, "/run/case.json", form)
    assert [watch, ("/environment/bin/python", "-m", program, "/run/case.json")] == argv
    assert [("6", "6"), ("8", "8")] == threads
