"""`max` in a plan: what a case is called before its number is known, and where it cannot be searched for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dlperf.adapters.registry import load_adapters
from dlperf.plan.case import bytes_of, bytes_text
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import PlanStatus, cell_of, make_plan
from dlperf.plan.selection import select

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan

LAPTOP = Machine(cores=4)
GPUS = Machine(cores=32, gpus=("NVIDIA V100",) * 8)


def plan(folder: Path, adapters: Any, *, machine: Machine = LAPTOP, **keys: Any) -> Plan:
    content = {
        "experiment": "quickstart",
        "frameworks": ["mxnet==1.9.1"],
        "topology": "1n1g",
        "batch_size_per_device": "max",
        "memory": "2GiB",
    }
    content |= keys
    text = yaml.safe_dump({key: value for key, value in content.items() if value is not None})
    (folder / "s.yaml").write_text(text)
    return make_plan(
        load_sweep("s.yaml", adapters=adapters, folder=folder), adapters=adapters, machine=machine
    )


def case(folder: Path, adapters: Any, **keys: Any) -> Case:
    (made,) = plan(folder, adapters, **keys).runnable
    return made


def test_a_case_has_one_name_whatever_is_found(tmp_path: Path, adapters: Any) -> None:
    before = case(tmp_path, adapters)
    found = before.changed(batch_size_per_device=115)
    assert "_bmax_c500_fp32_2GiB-" in before.case_id
    assert before.case_id == found.case_id
    assert 115 == found.batch_size_per_device
    assert before.case_id != before.changed(num_classes=501).case_id


@pytest.mark.parametrize(
    "keys",
    [
        {"memory": "1GiB"},
        {"search": {"iterations": 20}},
        {"search": {"batch_size_per_device": {"granularity": 2}}},
        {"search": {"batch_size_per_device": {"upper": 100}}},
    ],
)
def test_what_changes_the_limit_changes_the_case(tmp_path: Path, adapters: Any, keys: dict[str, Any]) -> None:
    assert case(tmp_path, adapters).case_id != case(tmp_path, adapters, **keys).case_id


def test_a_case_without_max_or_budget_keeps_the_name_that_it_had(tmp_path: Path, adapters: Any) -> None:
    made = case(tmp_path, adapters, batch_size_per_device=8, memory=None)
    assert not {"search", "memory_bytes"} & set(made.model_dump(mode="json"))


def test_classes_that_are_split_are_tried_in_numbers_that_split_evenly(tmp_path: Path, adapters: Any) -> None:
    keys = {"batch_size_per_device": 8, "num_classes": "max", "topology": "1n4g", "threads_per_device": 1}
    search = {"num_classes": {"granularity": 1002}}
    made = case(tmp_path, adapters, parallelism="model", search=search, **keys)
    assert made.search is not None
    assert (1004, 1004) == (made.search.granularity, made.search.lower)
    whole = case(tmp_path, adapters, parallelism="data", search=search, **keys)
    assert whole.search is not None
    assert 1002 == whole.search.granularity


def test_a_search_begins_with_what_the_engine_can_train(tmp_path: Path) -> None:
    made = case(tmp_path, load_adapters(), frameworks=["pytorch==2.13.0"])
    assert made.search is not None
    assert (2, 2) == (made.search.lower, made.batch_size_per_device)


def test_frameworks_run_in_turns_at_their_limits_wherever_their_searches_begin(tmp_path: Path) -> None:
    made = plan(tmp_path, load_adapters(), frameworks=["mxnet==1.9.1", "pytorch==2.13.0"])
    names = {case.case_id: case.framework for case in made.runnable}
    order = [names[run.case_id] for run in made.runs]
    assert ["mxnet", "pytorch", "pytorch", "mxnet"] == order[:4]
    mxnet, pytorch = made.runnable
    assert cell_of(mxnet.changed(batch_size_per_device=15)) == cell_of(pytorch)


@pytest.mark.parametrize(
    ("keys", "machine", "reason"),
    [
        ({"memory": None}, LAPTOP, "max on a CPU needs a memory budget in place of a GPU's memory, such as"),
        ({}, GPUS, "memory limits CPU devices; a GPU has its own memory"),
    ],
)
def test_where_the_machine_decides_the_plan_says_why(
    tmp_path: Path, adapters: Any, keys: dict[str, Any], machine: Machine, reason: str
) -> None:
    (item,) = plan(tmp_path, adapters, machine=machine, **keys).cases
    assert PlanStatus.UNAVAILABLE is item.status
    assert item.reason is not None
    assert item.reason.startswith(reason)


def test_on_a_gpu_max_needs_no_budget(tmp_path: Path, adapters: Any) -> None:
    assert 1 == len(plan(tmp_path, adapters, machine=GPUS, memory=None).runnable)


def test_max_is_selected_by_its_name_and_is_no_number(tmp_path: Path, adapters: Any) -> None:
    made = plan(tmp_path, adapters, batch_size_per_device=[8, "max"])
    assert 2 == len(made.runnable)
    for expression, expected in (
        ("batch_size_per_device==max", ["max"]),
        ("batch_size_per_device!=max", [8]),
        ("batch_size_per_device<100", [8]),
        ("batch_size_per_device!=8", ["max"]),
    ):
        found = select(made, expression=expression, only=(), exclude=()).runnable
        assert expected == [one.size("batch_size_per_device") for one in found], expression


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("1536MiB", 1536 << 20), ("3KiB", 3072)]
)
def test_sizes_of_memory_are_read_and_written(text: str, size: int) -> None:
    assert size == bytes_of(text)
    assert size == bytes_of(bytes_text(size))


@pytest.mark.parametrize("text", ["2GB", "2", "-1GiB", "1.5GiB", "GiB", "0GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        bytes_of(text)
