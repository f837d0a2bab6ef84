"""The files that ship: the workloads of 2021 exactly, and every cell that was published then."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.plan.load import load_experiment, load_sweep
from dlperf.plan.plan import Plan, PlanStatus, make_plan
from dlperf.results.published import load_published
from frameworks.common.case import case_from_dict
from frameworks.common.cost import model_cost

if TYPE_CHECKING:
    from dlperf.plan.machine import Machine

SWEEPS = ("r100_emore", "r100_glint360k", "y1_emore")
ONE_NODE = ("1n1g", "1n4g", "1n8g")
ALL_NODES = (*ONE_NODE, "2n8g", "4n8g")

# The cells published in 2021 whose batch size is known: (parallelism, sample ratio, framework) to the batch
# sizes and topologies. Six more were printed without number and batch size (MXNet, glint360k, largest batch).
PUBLISHED: dict[str, dict[tuple[str, float | None, str], tuple[tuple[int, ...], tuple[str, ...]]]] = {
    "r100_emore": {
        ("data", None, "oneflow"): ((64, 96), ONE_NODE),
        ("data", None, "mxnet"): ((64, 96), ONE_NODE),
        ("model", None, "oneflow"): ((64, 115), ONE_NODE),
        ("model", None, "mxnet"): ((64, 96), ONE_NODE),
        ("partial_fc", 0.1, "oneflow"): ((64, 120), ALL_NODES),
        ("partial_fc", 0.1, "mxnet"): ((64, 104), ALL_NODES),
        ("partial_fc", 1.0, "mxnet"): ((64, 104), ONE_NODE),
    },
    "r100_glint360k": {
        ("data", None, "oneflow"): ((64, 85), ONE_NODE),
        ("data", None, "mxnet"): ((64,), ONE_NODE),
        ("model", None, "oneflow"): ((64, 100), ONE_NODE),
        ("model", None, "mxnet"): ((64,), ONE_NODE),
        ("partial_fc", 0.1, "oneflow"): ((64, 115), ONE_NODE),
        ("partial_fc", 0.1, "mxnet"): ((64, 96), ONE_NODE),
        ("partial_fc", 1.0, "mxnet"): ((64, 80), ONE_NODE),
    },
    "y1_emore": {
        ("data", None, "oneflow"): ((256, 350), ONE_NODE),
        ("data", None, "mxnet"): ((256, 368), ONE_NODE),
        ("model", None, "oneflow"): ((256, 400), ONE_NODE),
        ("model", None, "mxnet"): ((256, 352), ONE_NODE),
    },
}
# PyTorch and JAX were not in it: the cells of each are those of the common batch size.
OTHER_CASES = {"r100_emore": 11, "r100_glint360k": 9, "y1_emore": 6}


def shipped(name: str, adapters: Any, machine: Machine, folder: Any) -> Plan:
    return make_plan(load_sweep(name, adapters=adapters, folder=folder), adapters=adapters, machine=machine)


def cells_of(plan: Plan) -> Counter[tuple[str, float | None, str, int, str]]:
    return Counter(
        (
            item.case.parallelism,
            item.case.sample_ratio,
            item.case.framework,
            item.case.batch_size_per_device,
            str(item.case.topology),
        )
        for item in plan.cases
        if item.case.framework not in {"pytorch", "jax"}
    )


def test_the_published_cells_are_as_many_as_were_published() -> None:
    cells = [batches for sweep in PUBLISHED.values() for batches in sweep.values()]
    assert 116 - 6 == sum(len(batches) * len(topologies) for batches, topologies in cells)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_of_2021_lists_every_published_cell_once_on_a_laptop(
    name: str, adapters: Any, laptop: Machine, tmp_path: Any
) -> None:
    plan = shipped(name, adapters, laptop, tmp_path)
    expected = Counter(
        (*key, batch, topology)
        for key, (batches, topologies) in PUBLISHED[name].items()
        for batch in batches
        for topology in topologies
    )
    assert expected == cells_of(plan)
    for other in ("pytorch", "jax"):
        assert OTHER_CASES[name] == sum(item.case.framework == other for item in plan.cases)
    assert (20, 100, 5) == (
        plan.cases[0].case.measure.warmup_iterations,
        plan.cases[0].case.measure.measured_iterations,
        plan.repeats,
    )


def test_the_grids_of_2021_hold_162_cases(adapters: Any, laptop: Machine, tmp_path: Any) -> None:
    assert [72, 54, 36] == [len(shipped(name, adapters, laptop, tmp_path).cases) for name in SWEEPS]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_machine_of_8_gpus_runs_every_cell_of_one_node(
    name: str, adapters: Any, cluster: Machine, tmp_path: Any
) -> None:
    plan = shipped(name, adapters, cluster, tmp_path)
    for item in plan.cases:
        runnable = item.case.topology.nodes == 1
        assert runnable == (item.status is PlanStatus.RUNNABLE)
    assert len(plan.runs) == 5 * len(plan.runnable)


def test_the_quickstart_runs_four_frameworks_on_a_laptop(
    adapters: Any, laptop: Machine, tmp_path: Any
) -> None:
    plan = shipped("quickstart", adapters, laptop, tmp_path)
    assert ["oneflow", "mxnet", "pytorch", "jax"] == [case.framework for case in plan.runnable]
    assert 20 == len(plan.runs)
    assert 4 == len({case.model_dump_json(exclude={"framework", "version"}) for case in plan.runnable}) + 3


def test_the_number_of_classes_is_swept_as_in_insightfaces_own_table(
    adapters: Any, cluster: Machine, tmp_path: Any
) -> None:
    plan = shipped("num_classes", adapters, cluster, tmp_path)

    cells = Counter((case.parallelism, case.sample_ratio, case.num_classes) for case in plan.runnable)
    grid = (("data", None), ("model", None), ("partial_fc", 0.1))
    published = load_published("arcface_torch_classes_v100_2021").data.cases
    classes = {case.num_classes for case in published if case.batch_size_per_device == 64}
    assert 11 == len(classes)
    assert {(*cell, count): 4 for cell in grid for count in classes} == cells
    assert {("iresnet50", "fp16", 512)} == {
        (case.workload.network, case.precision, case.global_batch_size) for case in plan.runnable
    }


def test_parallel_training_runs_on_two_cores_with_the_same_threads_everywhere(
    adapters: Any, laptop: Machine, tmp_path: Any
) -> None:
    plan = shipped("parallel_cpu", adapters, laptop, tmp_path)

    assert 36 == len(plan.runnable) == len(plan.cases)
    assert {1} == {case.threads_per_device for case in plan.runnable}
    assert {"1n1g", "1n2g", "1n4g"} == {str(case.topology) for case in plan.runnable}


def test_the_sweep_for_shaped_links_has_more_weights_in_its_classes_than_in_its_network(
    adapters: Any, laptop: Machine, tmp_path: Any
) -> None:
    cases = [planned.case for planned in shipped("shaped_links", adapters, laptop, tmp_path).cases]

    assert 6 == len(cases)
    assert {"1n1g", "2n1g"} == {str(case.topology) for case in cases}
    for case in cases:
        cost = model_cost(case_from_dict(case.model_dump(mode="json")))
        assert cost.classifier_parameters > 5 * cost.network_parameters


@pytest.mark.parametrize(
    ("name", "network", "head", "embedding", "loss", "classes", "steps"),
    [
        ("r100_emore", "iresnet100", "E", 512, ("arcface", 64, 1, 0.5, 0), 85744, (100000, 160000)),
        (
            "r100_glint360k",
            "iresnet100",
            "FC",
            512,
            ("cosface", 64, 1, 0, 0.4),
            360232,
            (200000, 400000, 500000, 550000),
        ),
        (
            "y1_emore",
            "mobilefacenet",
            "GDC",
            128,
            ("arcface", 64, 1, 0.5, 0),
            85744,
            (100000, 160000, 220000),
        ),
    ],
)
def test_the_workloads_are_those_of_2021(
    name: str,
    network: str,
    head: str,
    embedding: int,
    loss: tuple[Any, ...],
    classes: int,
    steps: tuple[int, ...],
) -> None:
    experiment, _ = load_experiment(name)
    assert (network, head, embedding) == (experiment.network, experiment.head, experiment.embedding_size)
    assert loss == (
        experiment.loss.kind,
        experiment.loss.scale,
        experiment.loss.m1,
        experiment.loss.m2,
        experiment.loss.m3,
    )
    assert classes == experiment.num_classes
    assert (0.1, steps, (0.1, 0.01, 0.001, 0.0001)[: len(steps)]) == (
        experiment.schedule.learning_rate,
        experiment.schedule.steps,
        experiment.schedule.scales,
    )
    optimizer = experiment.optimizer
    assert (0.9, 0.0005, "coupled", ()) == (
        optimizer.momentum,
        optimizer.weight_decay,
        optimizer.decay,
        optimizer.no_decay,
    )
    assert (0.4, 0.01) == (experiment.dropout, experiment.classifier_init_std)
