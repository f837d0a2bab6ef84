"""The grid, its exclusions and inclusions, and the order of the runs."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import at_most

from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, PlanStatus, make_plan
from dlperf.plan.selection import select

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.plan.case import Case

CLUSTER = Machine(cores=64, gpus=("V100",) * 8)


@pytest.fixture(scope="session")
def plan_of(adapters: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Plan]:
    """The plan of a sweep given as a mapping; what it leaves out is a small default."""
    folder: Path = tmp_path_factory.mktemp("project")

    def make(sweep: dict[str, Any], *, machine: Machine = CLUSTER) -> Plan:
        content = {
            "experiment": "quickstart",
            "frameworks": ["mxnet==1.9.1"],
            "topology": "1n1g",
            "batch_size_per_device": 8,
            **sweep,
        }
        (folder / "s.yaml").write_text(yaml.safe_dump(content))
        return make_plan(
            load_sweep("s.yaml", adapters=adapters, folder=folder), adapters=adapters, machine=machine
        )

    return make


def _some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


FRAMEWORKS = ["mxnet==1.9.1", "mxnet==1.8.0", "oneflow==0.9.0", "pytorch==2.13.0"]
GRIDS = st.fixed_dictionaries(
    {
        "experiment": _some(["quickstart", "y1_emore", "r100_emore"]),
        "frameworks": _some(FRAMEWORKS),
        "topology": _some(["1n1g", "1n2g", "1n8g", "2n8g"]),
        "parallelism": _some(["data", "model", "partial_fc"]),
        "sample_ratio": _some([0.1, 0.5, 1.0]),
        "batch_size_per_device": _some([8, 64, 96]),
        "num_classes": _some([100, 1000]),
        "precision": _some(["fp32", "fp16", "bf16"]),
        "order": st.sampled_from(["interleaved", "sequential", "shuffled"]),
        "seed": st.integers(0, 5),
        "measure": st.fixed_dictionaries({"repeats": st.integers(1, 6)}),
    }
)
quick = settings(
    max_examples=at_most(30), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def _without_idle_ratio(grid: dict[str, Any]) -> dict[str, Any]:
    used = "partial_fc" in grid["parallelism"]
    return grid if used else {key: value for key, value in grid.items() if key != "sample_ratio"}


def _size(grid: dict[str, Any]) -> int:
    ratios = len(grid.get("sample_ratio", ()))
    classifiers = sum(ratios if parallelism == "partial_fc" else 1 for parallelism in grid["parallelism"])
    axes = ("experiment", "frameworks", "topology", "batch_size_per_device", "num_classes", "precision")
    product = classifiers
    for axis in axes:
        product *= len(grid[axis])
    return product


@quick
@given(grid=GRIDS.map(_without_idle_ratio))
def test_the_grid_is_the_product_of_its_axes_and_no_case_stands_twice(
    plan_of: Any, grid: dict[str, Any]
) -> None:
    plan = plan_of(grid)
    assert _size(grid) == len(plan.cases)
    assert len(plan.cases) == len({item.case_id for item in plan.cases})


@quick
@given(grid=GRIDS.map(_without_idle_ratio), data=st.data())
def test_an_exclusion_takes_out_what_it_matches_and_nothing_else(
    plan_of: Any, grid: dict[str, Any], data: Any
) -> None:
    axis = data.draw(st.sampled_from(["topology", "batch_size_per_device", "precision"]))
    value = data.draw(st.sampled_from(grid[axis]))
    if len(grid[axis]) == 1:
        return  # nothing would be left: another test's subject
    plan = plan_of({**grid, "exclude": [{"when": {axis: value}, "why": "because"}]})
    excluded = [item for item in plan.cases if item.status is PlanStatus.EXCLUDED]
    assert _size(grid) // len(grid[axis]) == len(excluded)
    assert _size(grid) == len(plan.cases)
    for item in plan.cases:
        assert (str(getattr(item.case, axis)) == str(value)) == (item.status is PlanStatus.EXCLUDED)
    assert all(item.reason == "because" for item in excluded)


@quick
@given(grid=GRIDS.map(_without_idle_ratio))
def test_the_order_holds_every_run_of_every_runnable_case_once(plan_of: Any, grid: dict[str, Any]) -> None:
    plan = plan_of(grid)
    expected = Counter(
        (case.case_id, repeat)
        for case in plan.runnable
        for repeat in range(1, grid["measure"]["repeats"] + 1)
    )
    assert expected == Counter((run.case_id, run.repeat) for run in plan.runs)
    assert plan.runs == plan_of(grid).runs  # the same file gives the same order


def _cell(case: Case) -> str:
    return case.model_dump_json(exclude={"framework", "version", "options"})


@quick
@given(grid=GRIDS.map(_without_idle_ratio).map(lambda grid: {**grid, "order": "interleaved"}))
def test_interleaved_blocks_hold_each_framework_once_and_turn_round(
    plan_of: Any, grid: dict[str, Any]
) -> None:
    plan = plan_of(grid)
    cases = {case.case_id: case for case in plan.runnable}
    cells = [list(runs) for _, runs in groupby(plan.runs, key=lambda run: _cell(cases[run.case_id]))]
    assert len(cells) == len({_cell(case) for case in plan.runnable})  # a cell is done before the next
    for runs in cells:
        blocks = [[run.case_id for run in block] for _, block in groupby(runs, key=lambda run: run.repeat)]
        assert grid["measure"]["repeats"] == len(blocks)
        for first, second in pairwise(blocks):
            assert first == second[::-1]
            assert len(first) == len(set(first))


def test_sequential_makes_all_repeats_of_a_case_first(plan_of: Any) -> None:
    plan = plan_of({"topology": ["1n1g", "1n2g"], "order": "sequential", "measure": {"repeats": 2}})
    first, second = (item.case_id for item in plan.cases)
    assert [(first, 1), (first, 2), (second, 1), (second, 2)] == [
        (run.case_id, run.repeat) for run in plan.runs
    ]


def test_shuffled_depends_on_the_seed_alone(plan_of: Any) -> None:
    sweep = {"topology": ["1n1g", "1n2g", "1n4g"], "order": "shuffled", "measure": {"repeats": 6}}

    def order(seed: int) -> list[tuple[str, int]]:
        # The seed is part of a case's identity, so cases are told apart by their topology here.
        plan = plan_of({**sweep, "seed": seed})
        names = {item.case_id: str(item.case.topology) for item in plan.cases}
        return [(names[run.case_id], run.repeat) for run in plan.runs]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_topologies_can_be_given_as_nodes_times_devices(plan_of: Any) -> None:
    plan = plan_of({"topology": {"nodes": [1, 2], "devices_per_node": [4, 8]}})
    assert ["1n4g", "1n8g", "2n4g", "2n8g"] == [str(item.case.topology) for item in plan.cases]


def test_the_sample_ratio_applies_to_partial_fc_alone(plan_of: Any) -> None:
    plan = plan_of({"parallelism": ["data", "partial_fc"], "sample_ratio": [0.1, 1.0]})
    cells = [(item.case.parallelism, item.case.sample_ratio) for item in plan.cases]
    assert [("data", None), ("partial_fc", 0.1), ("partial_fc", 1.0)] == cells


def test_an_included_cell_takes_what_it_does_not_name_from_the_sweep(plan_of: Any) -> None:
    include = [{"frameworks": "oneflow", "batch_size_per_device": 115}]
    plan = plan_of(
        {"frameworks": FRAMEWORKS[1:3], "topology": ["1n1g", "1n2g"], "include": include, "seed": 7}
    )
    beside = [item.case for item in plan.cases[4:]]
    assert [("oneflow", "0.9.0", "1n1g", 115), ("oneflow", "0.9.0", "1n2g", 115)] == [
        (case.framework, case.version, str(case.topology), case.batch_size_per_device) for case in beside
    ]
    assert all(case.seed == 7 for case in beside)


def test_an_include_brings_back_an_excluded_cell(plan_of: Any) -> None:
    exclude = [{"when": {"topology": "1n8g"}, "why": "slow"}]
    sweep = {"topology": ["1n1g", "1n8g"], "exclude": exclude}
    assert [PlanStatus.RUNNABLE, PlanStatus.EXCLUDED] == [item.status for item in plan_of(sweep).cases]
    plan = plan_of({**sweep, "include": [{"topology": "1n8g"}]})
    assert [PlanStatus.RUNNABLE, PlanStatus.RUNNABLE] == [item.status for item in plan.cases]


def test_an_include_equal_to_a_cell_of_the_grid_adds_nothing(plan_of: Any) -> None:
    assert 1 == len(plan_of({"include": [{"batch_size_per_device": 8}]}).cases)


def test_an_include_may_bring_a_version_of_its_own(plan_of: Any) -> None:
    plan = plan_of({"include": [{"frameworks": "mxnet==1.8.0"}]})
    assert ["1.9.1", "1.8.0"] == [item.case.version for item in plan.cases]


def test_a_framework_without_a_version_is_the_adapters_first(plan_of: Any) -> None:
    assert ["1.9.1"] == [item.case.version for item in plan_of({"frameworks": "mxnet"}).cases]


def test_options_are_resolved_and_part_of_the_case(plan_of: Any) -> None:
    sweep = {"frameworks": ["mxnet==1.9.1", "oneflow==0.9.0"], "options": {"mxnet": {"fast": True}}}
    plan = plan_of({**sweep, "include": [{"frameworks": "mxnet", "options": {"mxnet": {"level": 3}}}]})
    assert [{"fast": True}, {"fast": False}, {"fast": True, "level": 3}] == [
        item.case.options for item in plan.cases
    ]


def test_classes_come_from_the_experiment_unless_the_sweep_names_them(plan_of: Any) -> None:
    plan = plan_of({"experiment": ["r100_emore", "r100_glint360k"]})
    assert [85744, 360232] == [item.case.num_classes for item in plan.cases]
    assert [12] == [item.case.num_classes for item in plan_of({"num_classes": 12}).cases]


@pytest.mark.parametrize(
    ("topology", "cores", "threads"), [("1n1g", 2, 2), ("1n2g", 2, 1), ("1n8g", 2, 1), ("1n4g", 64, 16)]
)
def test_threads_are_the_cores_shared_out_alike(
    plan_of: Any, topology: str, cores: int, threads: int
) -> None:
    sweep = {"frameworks": FRAMEWORKS, "topology": topology}
    plan = plan_of(sweep, machine=Machine(cores=cores))
    assert {threads} == {item.case.threads_per_device for item in plan.cases}


@pytest.mark.parametrize(
    ("sweep", "machine", "threads"),
    [
        ({"topology": ["1n1g", "1n4g", "1n8g"]}, CLUSTER, 8),
        ({"topology": ["1n1g", "1n2g"]}, Machine(cores=2), 1),
        # What cannot run here takes no cores.
        ({"topology": ["1n1g", "1n8g"]}, Machine(cores=2), 2),
        ({"topology": ["1n1g", "1n8g"], "oversubscribe": True}, Machine(cores=2), 1),
        ({"topology": ["1n4g", "4n8g"]}, CLUSTER, 16),
        ({"topology": ["1n4g"], "include": [{"topology": "1n8g", "precision": "bf16"}]}, CLUSTER, 16),
        (
            {"topology": ["1n4g", "1n8g"], "exclude": [{"when": {"topology": "1n8g"}, "why": "slow"}]},
            CLUSTER,
            16,
        ),
        ({"topology": ["1n1g", "1n8g"], "device": "cuda"}, Machine(cores=16), 2),  # nothing runs: of all
        ({"topology": ["1n1g", "1n8g"], "threads_per_device": 3}, CLUSTER, 3),
    ],
)
def test_threads_are_one_number_for_the_sweep_that_fits_its_most_devices(
    plan_of: Any, sweep: dict[str, Any], machine: Machine, threads: int
) -> None:
    assert {threads} == {item.case.threads_per_device for item in plan_of(sweep, machine=machine).cases}


def test_a_selection_has_the_threads_of_the_whole_sweep(plan_of: Any) -> None:
    plan = select(plan_of({"topology": ["1n1g", "1n8g"]}), only=("topology=1n1g",))
    assert [("1n1g", 8)] == [(str(item.case.topology), item.case.threads_per_device) for item in plan.cases]


SHARE = " ('oversubscribe: true' in the sweep lets devices share them)"


@pytest.mark.parametrize(
    ("sweep", "machine", "status", "reason"),
    [
        ({}, Machine(cores=2), "runnable", None),
        ({"topology": "1n2g"}, Machine(cores=2), "runnable", None),
        (
            {"topology": "1n8g"},
            Machine(cores=2),
            "unavailable",
            "needs 8 CPU cores, one per thread; this machine has 2" + SHARE,
        ),
        (
            {"threads_per_device": 4},
            Machine(cores=2),
            "unavailable",
            "needs 4 CPU cores, one per thread; this machine has 2" + SHARE,
        ),
        (
            {"topology": "1n8g", "threads_per_device": 1, "oversubscribe": True},
            Machine(cores=2),
            "runnable",
            None,
        ),
        ({"topology": "2n8g"}, CLUSTER, "unavailable", "needs 2 nodes; this is one machine"),
        ({"device": "cuda"}, Machine(cores=2), "unavailable", "needs 1 GPU; this machine has none"),
        (
            {"topology": "1n8g"},
            Machine(cores=4, gpus=("T4",)),
            "unavailable",
            "needs 8 GPUs; this machine has 1",
        ),
        ({"topology": "1n8g", "device": "cuda"}, CLUSTER, "runnable", None),
        ({"precision": "bf16"}, CLUSTER, "unsupported", "mxnet has no bf16"),
        (
            {"frameworks": "pytorch==2.12.0"},
            Machine(cores=2),
            "unavailable",
            "pytorch 2.12.0 has no CPU build",
        ),
        ({"frameworks": "pytorch==2.12.0"}, CLUSTER, "runnable", None),
    ],
)
def test_what_cannot_run_here_is_planned_with_its_reason(
    plan_of: Any, sweep: dict[str, Any], machine: Machine, status: str, reason: str | None
) -> None:
    (item,) = plan_of(sweep, machine=machine).cases
    assert (status, reason) == (item.status.value, item.reason)


def test_the_device_of_auto_is_the_machines(plan_of: Any) -> None:
    assert "cuda" == plan_of({}).cases[0].case.device
    assert "cpu" == plan_of({}, machine=Machine(cores=2)).cases[0].case.device


def test_the_users_interpreters_are_in_the_plan_and_not_in_the_case(plan_of: Any) -> None:
    own = {"name": "mxnet", "version": "1.9.1", "python": "/opt/mx/bin/python"}
    plan = plan_of({"frameworks": [own]})
    assert {"mxnet==1.9.1": "/opt/mx/bin/python"} == plan.interpreters
    assert plan_of({}).cases[0].case_id == plan.cases[0].case_id


def test_limits_may_have_units(plan_of: Any) -> None:
    limits = plan_of({"limits": {"time": "30m", "stall": 90}}).limits
    assert (1800.0, 90.0) == (limits.time, limits.stall)
