"""A sweep on a machine -> the plan: what would run, what would not and why, and in which order.

The plan is frozen as `plan.lock.json` when a sweep first runs: editing the YAML later leaves it alone.
"""

import difflib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt

from dlperf.adapters.base import Adapter
from dlperf.errors import UserError
from dlperf.files import read_document, write_document
from dlperf.layout import LIMITS_FOLDER, LOCK_NAME, RUNS_FOLDER
from dlperf.model import Model, Retired
from dlperf.plan.case import SEARCHED_AXES, Case, DeviceKind, Measure, digest_of
from dlperf.plan.cluster import Cluster, fits
from dlperf.plan.compatibility import refusal
from dlperf.plan.grid import Cell, cells, from_supported, no_memory, search_of
from dlperf.plan.load import Sweep
from dlperf.plan.machine import Gpu, Machine
from dlperf.plan.sweep import Limits, Order
from dlperf.plan.versions import Origin, specification_of
from dlperf.wording import plural


class PlannedRun(Model):
    """One repeat of one case; repeats count from 1."""

    case_id: str
    """The case's name."""
    repeat: int
    """Number of the repeat, from 1."""


def ordered_runs(cases: Sequence[Case], *, repeats: int, order: Order, seed: int) -> tuple[PlannedRun, ...]:
    """Every case `repeats` times.

    `interleaved` goes from cell to cell. A cell's cases differ in their framework only; they are run in
    blocks, each of them once per block, and the order reverses from block to block (A B, B A, A B, ...), so
    that a machine that drifts hits all frameworks alike. `sequential` makes all repeats of a case before the
    next case; `shuffled` mixes all runs, the same way for the same seed.
    """
    if order == "interleaved":
        return tuple(run for cell in cells_of(cases) for run in _blocks(cell, repeats))
    runs = [
        PlannedRun(case_id=case.case_id, repeat=repeat) for case in cases for repeat in range(1, repeats + 1)
    ]
    if order == "shuffled":
        random.Random(seed).shuffle(runs)  # noqa: S311 - an order, no secret
    return tuple(runs)


def cells_of(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each cell (they differ in their framework only), cells as they first appear."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(cell_of(case), []).append(case)
    return list(groups.values())


def cell_of(case: Case) -> str:
    """Equal for cases of one cell. What a search finds, and where it begins, is the framework's own."""
    left_out: dict[str, Any] = {"framework": True, "version": True, "options": True, "source": True}
    if case.search is not None:
        left_out |= {case.search.axis: True, "search": {"lower": True}}
    return case.model_dump_json(exclude=left_out)


def cell_digest(case: Case) -> str:
    """12 hexadecimal digits, equal for cases of one cell."""
    return digest_of(cell_of(case))


def _blocks(cell: Sequence[Case], repeats: int) -> list[PlannedRun]:
    return [
        PlannedRun(case_id=case.case_id, repeat=repeat)
        for repeat in range(1, repeats + 1)
        for case in (cell if repeat % 2 else reversed(cell))
    ]


_MOST_CASE_LINES = 40  # of the differences between two plans


class PlanStatus(StrEnum):
    """What a plan says about a case before anything runs."""

    RUNNABLE = "runnable"
    UNSUPPORTED = "unsupported"  # the engine cannot
    UNAVAILABLE = "unavailable"  # this machine cannot
    EXCLUDED = "excluded"  # the sweep file says no


class PlannedCase(Model):
    """A case and what the plan says about it."""

    case: Case
    """The case."""
    status: PlanStatus
    """Whether it would run; else whether engine (`unsupported`), machine (`unavailable`) or sweep
    (`excluded`) is against it."""
    reason: str | None = None
    """Why it does not run; null where it is runnable."""

    @property
    def case_id(self) -> str:
        """The case's name."""
        return self.case.case_id


class SourceText(Model):
    """A file that the plan was made from."""

    path: str
    """Where the file was, as it was found from the working directory."""
    text: str
    """Its whole text."""


class PlannedCluster(Model):
    """The cluster that a plan was made for."""

    name: str
    """Name of the cluster: that of its file, without `.yaml`."""
    nodes: tuple[str, ...]
    """Names of its nodes, in the file's order."""
    simulated: Retired = None


class Plan(Model):
    """`plan.lock.json`: everything that decides what runs."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    sweep: str
    """Name of the sweep: that of its file, without `.yaml`."""
    cases: tuple[PlannedCase, ...]
    """Every case of the sweep, also those that do not run."""
    runs: tuple[PlannedRun, ...]
    """The runs, in the order in which they are made."""
    repeats: PositiveInt
    """Runs of each case."""
    order: Order
    """How the runs are ordered."""
    limits: Limits
    """When a run is ended."""
    interpreters: dict[str, str]
    """Absolute paths of the user's own Python interpreters, by `name==version`."""
    # Not written where there is none, so that older plans stay equal.
    origins: Annotated[dict[str, Origin], Field(exclude_if=lambda origins: not origins)] = Field(
        default_factory=dict
    )
    """Versions that come from a wheel, an index or a page of links, by `name==version`."""
    # Likewise.
    checkouts: Annotated[dict[str, str], Field(exclude_if=lambda checkouts: not checkouts)] = Field(
        default_factory=dict
    )
    """Absolute paths of the sources of original programs, by content hash."""
    machine: Machine
    """The machine; of a cluster, what each of its nodes has."""
    cluster: PlannedCluster | None = None
    """The cluster; null: the runs are made on this machine."""
    settings: tuple[str, ...] = ()
    """Values from the command line that were laid over the files, such as `-S measure.repeats=3`."""
    notes: Annotated[str, Field(exclude_if=lambda notes: not notes)] = ""
    """The sweep's `notes`, for its report; not written where there are none."""
    sources: tuple[SourceText, ...]
    """The sweep's file and the files of its experiments."""

    @property
    def runnable(self) -> tuple[Case, ...]:
        """The cases that would run."""
        return tuple(item.case for item in self.cases if item.status is PlanStatus.RUNNABLE)

    def narrowed(self, case_ids: frozenset[str]) -> Self:
        """The plan with these cases alone; the order of their runs stays."""
        return self.model_copy(
            update={
                "cases": tuple(item for item in self.cases if item.case_id in case_ids),
                "runs": tuple(run for run in self.runs if run.case_id in case_ids),
            }
        )

    def repeated(self, most: int) -> Self:
        """The plan with so many repeats at most."""
        runs = tuple(run for run in self.runs if run.repeat <= most)
        return self.model_copy(update={"repeats": min(self.repeats, most), "runs": runs})


def make_plan(
    sweep: Sweep, *, adapters: Mapping[str, Adapter], machine: Machine, cluster: Cluster | None = None
) -> Plan:
    """The plan of a loaded sweep on a machine, or on a cluster whose nodes have at least what `machine` has.

    Pure: nothing is started, nothing is looked up. A case that cannot run there (too few devices, no GPU) is
    planned as unavailable, so that a laptop can show the plan of a cluster.
    """
    file = sweep.file
    device = machine.device if file.device == "auto" else file.device
    grid = cells(file, sweep.experiments, adapters=adapters)

    def plan_cell(cell: Cell, threads: int) -> PlannedCase:
        adapter = adapters[cell.framework.name]
        case = _case(cell, sweep, adapter=adapter, device=device, threads=threads)
        if cluster is None:
            missing = lacking(case, machine, oversubscribe=file.oversubscribe)
            machines = {"": machine}
        else:
            missing = cluster.lacking(case, oversubscribe=file.oversubscribe)
            machines = {node.name: node.machine for node in cluster.nodes if fits(node, case)}
        origin = sweep.origins.get(str(cell.framework))
        unavailable = missing or _no_environment(
            case, cell, adapter=adapter, origin=origin, gpu=machine.gpu, machines=machines
        )
        return _planned(case, cell, adapter=adapter, unavailable=unavailable)

    threads = file.threads_per_device
    if threads == "auto":
        threads = _auto_threads(
            grid, cores=machine.cores, can_run=lambda cell: plan_cell(cell, 1).status is PlanStatus.RUNNABLE
        )
    planned = [plan_cell(cell, threads) for cell in grid]
    interpreters = {
        str(cell.framework): str(Path(cell.framework.python).expanduser().absolute())
        for cell in grid
        if cell.framework.python
    }
    runnable = [item.case for item in planned if item.status is PlanStatus.RUNNABLE]
    repeats = file.measure.repeats
    return Plan(
        sweep=sweep.name,
        cases=tuple(planned),
        runs=ordered_runs(runnable, repeats=repeats, order=file.order, seed=file.seed),
        repeats=repeats,
        order=file.order,
        limits=file.limits,
        interpreters=interpreters,
        origins=sweep.origins,
        checkouts={
            files.source.content_hash: str(files.checkout) for files in sweep.program_sources.values()
        },
        machine=machine,
        cluster=None
        if cluster is None
        else PlannedCluster(name=cluster.name, nodes=tuple(node.name for node in cluster.nodes)),
        settings=tuple(setting.label for setting in sweep.settings),
        notes=file.notes,
        sources=tuple(SourceText(path=document.path, text=document.text) for document in sweep.documents),
    )


def _auto_threads(grid: Sequence[Cell], *, cores: int, can_run: Callable[[Cell], bool]) -> int:
    """The cores of a node shared out to the most devices that a cell uses there.

    One number for the whole sweep: with more threads on one device than on eight, a speedup would compare the
    threads too. Cells that cannot run do not count, unless no cell can.
    """
    by_devices = sorted(grid, key=lambda cell: cell.topology.devices_per_node, reverse=True)
    largest = next((cell for cell in by_devices if can_run(cell)), by_devices[0])
    return max(1, cores // largest.topology.devices_per_node)


def _case(cell: Cell, sweep: Sweep, *, adapter: Adapter, device: DeviceKind, threads: int) -> Case:
    file = sweep.file
    search = search_of(cell, file.search)
    sizes: dict[str, Any] = {axis: getattr(cell, axis) for axis in SEARCHED_AXES}
    if search is not None:
        sizes[search.axis] = search.lower
    entry = cell.framework.source
    case = Case(
        framework=cell.framework.name,
        version=str(cell.framework.version),
        workload=sweep.experiments[cell.experiment].workload,
        parallelism=cell.parallelism,
        sample_ratio=cell.sample_ratio,
        precision=cell.precision,
        topology=cell.topology,
        device=device,
        **sizes,
        threads_per_device=threads,
        measure=Measure(**file.measure.model_dump(include=set(Measure.model_fields))),
        seed=file.seed,
        options=adapter.options.model_validate(cell.options).model_dump(mode="json", exclude_none=True),
        gradient_dtype=file.gradient_dtype,
        memory_bytes=file.memory,
        search=search,
        data=None if cell.data == "synthetic" else sweep.data_sets[cell.data],
        source=None if entry is None else sweep.program_sources[cell.framework.name, entry].source,
    )
    return case if search is None else from_supported(case, search, adapter)


def _planned(case: Case, cell: Cell, *, adapter: Adapter, unavailable: str | None) -> PlannedCase:
    if cell.why is not None:
        return PlannedCase(case=case, status=PlanStatus.EXCLUDED, reason=cell.why)
    reason = adapter.unsupported(case)
    if reason is not None:
        return PlannedCase(case=case, status=PlanStatus.UNSUPPORTED, reason=reason)
    reason = no_memory(case) or _unfit_data(case) or unavailable
    if reason is not None:
        return PlannedCase(case=case, status=PlanStatus.UNAVAILABLE, reason=reason)
    return PlannedCase(case=case, status=PlanStatus.RUNNABLE)


def _unfit_data(case: Case) -> str | None:
    """Why the case cannot be trained on its data set; a search for classes takes those that it finds."""
    if case.data is None or case.data.classes <= case.num_classes:
        return None
    return (
        f"the data set {case.data.name} has {plural(case.data.classes, 'class', 'classes')}, and the "
        f"classifier {case.num_classes}; set num_classes to {case.data.classes} or more"
    )


def lacking(case: Case, machine: Machine, *, oversubscribe: bool = False) -> str | None:
    """What this one machine lacks to run the case; None where it lacks nothing.

    `oversubscribe` lets devices of a CPU share cores.
    """
    topology = case.topology
    if topology.nodes > 1:
        return f"needs {topology.nodes} nodes; this is one machine"
    if case.device == "cuda" and topology.devices_per_node > 1 and machine.gpu and machine.gpu.mig:
        return (
            f"needs {topology.devices_per_node} GPUs that reach each other; this machine has an instance, "
            f"{machine.gpu.name}, which reaches none"
        )
    if case.device == "cuda" and topology.devices_per_node > len(machine.gpus):
        needed = plural(topology.devices_per_node, "GPU")
        return f"needs {needed}; this machine has {len(machine.gpus) or 'none'}"
    threads = topology.devices_per_node * case.threads_per_device
    if case.device == "cpu" and threads > machine.cores and not oversubscribe:
        return (
            f"needs {threads} CPU cores, one per thread; this machine has {machine.cores} "
            "('oversubscribe: true' in the sweep lets devices share them)"
        )
    return None


def _no_environment(
    case: Case,
    cell: Cell,
    *,
    adapter: Adapter,
    origin: Origin | None,
    gpu: Gpu | None,
    machines: Mapping[str, Machine],
) -> str | None:
    """Why the version has no environment for this device, or none that its GPUs can run.

    `machines` are those with enough devices, by the name of the node. Loading refused versions that have no
    environment at all.
    """
    if cell.framework.python:
        return None
    parallel = case.topology.world_size > 1
    try:
        spec = specification_of(
            case.version, adapter=adapter, device=case.device, parallel=parallel, gpu=gpu, origin=origin
        )
    except ValueError as error:
        return str(error)
    if case.device == "cpu":
        return None
    devices = case.topology.devices_per_node
    reasons = {
        name: refusal(spec, machine.gpus[:devices], adapter=adapter) for name, machine in machines.items()
    }
    alike = len(set(reasons.values())) == 1
    refusals = [reason if alike else f"{name}: {reason}" for name, reason in reasons.items() if reason]
    return refusals[0] if len(reasons) - len(refusals) < case.topology.nodes else None


def freeze(plan: Plan, folder: Path) -> Plan:
    """Write the plan into a results folder, or agree with the one that is there.

    An equal plan resumes. More cases, more repeats, other limits, other notes or another `max_interference`
    change the frozen plan. Fewer repeats resume too and keep the frozen file. Where no run was begun yet the
    plan takes the other's place. Returns the plan to run. UserError where the folder holds another plan (the
    text ends with what differs), or a file that is no plan.
    """
    path = folder / LOCK_NAME
    frozen = read_lock(path) if path.exists() else None
    has_runs = any(any((folder / name).glob("*")) for name in (RUNS_FOLDER, LIMITS_FOLDER))
    if frozen is None or not has_runs:
        write_document(path, plan)
        return plan
    differences = list(compare_plans(frozen, plan))
    if differences:
        raise UserError(
            f"{path}: this folder holds results of another plan. A sweep may grow: add to it, or restore "
            "what is gone, or choose another folder with --results DIR. What changed:\n"
            + "\n".join(differences)
        )
    more_cases = {case.case_id for case in plan.runnable} != {case.case_id for case in frozen.runnable}
    if more_cases and plan.repeats < frozen.repeats:
        raise UserError(
            f"{path}: this plan has new cases and fewer repeats than the one that ran; "
            f"give it {plural(frozen.repeats, 'repeat')} or more"
        )
    # What may change without a case becoming another one.
    changed = {"limits": plan.limits, "cases": plan.cases, "notes": plan.notes}
    has_grown = more_cases or plan.repeats > frozen.repeats
    grown = plan if has_grown else frozen.model_copy(update=changed)
    if grown != frozen:
        write_document(path, grown)
    return plan


def read_lock(path: Path) -> Plan:
    """Read a frozen plan; UserError where the file is none, or is of another schema version."""
    remedy = "choose another folder with --results DIR, or remove the file to plan again"
    return read_document(path, Plan, kind="plan", remedy=remedy)


def compare_plans(old: Plan, new: Plan) -> Iterator[str]:
    """The lines of a unified diff where the plans cannot share a results folder; nothing where they can.

    They can when every case that the old plan runs is in the new one, which may have more, with the same
    interpreter, and when both have the same order.
    """
    if _commitments(old) <= _commitments(new):
        return
    settings = [" ".join(plan.settings) or "none" for plan in (old, new)]
    for what, then, now in (
        ("machine", str(old.machine), str(new.machine)),
        ("cluster", str(old.cluster), str(new.cluster)),
        ("settings", *settings),
    ):
        if then != now:
            yield from (f"-{what}: {then}", f"+{what}: {now}")
    for before, after in zip(old.sources, new.sources, strict=False):
        yield from _diff(before.text, after.text, names=(f"{before.path} (frozen)", after.path))
    cases = list(_diff(_essence(old), _essence(new), names=("cases (frozen)", "cases")))
    yield from cases[:_MOST_CASE_LINES]
    if len(cases) > _MOST_CASE_LINES:
        yield f"... and {plural(len(cases) - _MOST_CASE_LINES, 'more line')}"


def _commitments(plan: Plan) -> set[str]:
    """What a plan that may take this one's place must have too."""
    return {*_ways(plan), *(case.case_id for case in plan.runnable)}


def _ways(plan: Plan) -> list[str]:
    """How a plan's runs are made, one thing a line."""
    lines = [f"order {plan.order}"]
    lines += [f"python of {name} {path}" for name, path in sorted(plan.interpreters.items())]
    # A wheel may lie elsewhere now: its hash is in the names of its cases.
    origins = sorted(plan.origins.items())
    lines += [f"index of {name} {origin.index}" for name, origin in origins if origin.index]
    lines += [f"wheels of {name} {origin.find_links}" for name, origin in origins if origin.find_links]
    return lines


def _essence(plan: Plan) -> str:
    """What a diff of two plans shows, one thing a line."""
    return "\n".join([*_ways(plan), *(f"{item.case_id} {item.status.value}" for item in plan.cases)])


def _diff(before: str, after: str, *, names: tuple[str, str]) -> Iterator[str]:
    return difflib.unified_diff(before.splitlines(), after.splitlines(), *names, n=1, lineterm="")
