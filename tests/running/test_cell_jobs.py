"""Cells as arrays of jobs: how they are grouped, split and submitted. A real Slurm is in tests/lab."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import make_case, store_good_runs

from dlperf.errors import UserError
from dlperf.files import write_document
from dlperf.plan.case import Topology
from dlperf.plan.cluster import load_cluster
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, PlannedCase, PlanStatus, cell_of, ordered_runs
from dlperf.plan.sweep import Limits
from dlperf.running.cell_jobs import (
    PendingCell,
    TaskState,
    array_script,
    arrays_of,
    in_words,
    open_arrays,
    pending_cells,
    record_ends,
    submit_cells,
)
from dlperf.running.slurm import JobState, TooManyJobs, longest_array
from dlperf.running.slurm_job import (
    AskedJob,
    JobRecord,
    SubmittedJob,
    SubmittedTask,
    living_job,
    read_record,
)

if TYPE_CHECKING:
    from dlperf.plan.case import Case
    from dlperf.plan.cluster import Cluster

CLUSTER = """\
transport: slurm
nodes: 4
device: cpu
devices: 8
cores: 64
allocate: per_cell
"""


def cell(number: int, *, nodes: int = 1) -> PendingCell:
    return PendingCell(digest=f"{number:012x}", nodes=nodes, cases=(f"a-{number}", f"b-{number}"), left=4)


def cluster(folder: Path, more: str = "") -> Cluster:
    (folder / "c.yaml").write_text(CLUSTER + more)
    return load_cluster("c.yaml", folder=folder)


def plan_of(cases: list[Case]) -> Plan:
    """Two repeats of each case."""
    return Plan(
        sweep="tiny",
        cases=tuple(PlannedCase(case=case, status=PlanStatus.RUNNABLE) for case in cases),
        runs=ordered_runs(cases, repeats=2, order="interleaved", seed=0),
        repeats=2,
        order="interleaved",
        limits=Limits(),
        interpreters={},
        machine=Machine(cores=64),
        sources=(),
    )


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 9))
def test_each_cell_is_in_one_array_of_its_number_of_nodes_that_is_not_too_long(
    nodes: list[int], longest: int
) -> None:
    cells = [cell(number, nodes=count) for number, count in enumerate(nodes)]
    arrays = arrays_of(cells, longest=longest)
    assert Counter(cells) == Counter(one for array in arrays for one in array)
    assert all(1 <= len(array) <= longest and len({one.nodes for one in array}) == 1 for array in arrays)
    # As few as can be, small ones first, in the plan's order.
    assert len(arrays) == sum(-(-count // longest) for count in Counter(nodes).values())
    flat = [one for array in arrays for one in array]
    assert all((a.nodes, a.digest) < (b.nodes, b.digest) for a, b in pairwise(flat))


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["1n1g", "2n1g"]), st.integers(1, 3)),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_the_cases_of_a_job_are_those_that_are_compared(keys: list[tuple[str, str, int]]) -> None:
    cases = [
        make_case(framework=name, topology=Topology.from_text(topology), batch_size_per_device=batch)
        for name, topology, batch in keys
    ]
    by_name = {case.case_id: case for case in cases}
    found = pending_cells(plan_of(cases), results=Path("/nowhere"), retry_failed=False)
    assert sorted(by_name) == sorted(name for one in found for name in one.cases)
    for one in found:
        members = [by_name[name] for name in one.cases]
        assert 1 == len({cell_of(case) for case in members})
        assert {one.nodes} == {case.topology.nodes for case in members}
        assert one.left == 2 * len(members)
    assert len(found) == len({cell_of(case) for case in cases}) == len({one.digest for one in found})


def test_a_cell_has_a_job_for_what_it_lacks(tmp_path: Path) -> None:
    whole, half, none = (make_case(batch_size_per_device=size) for size in (2, 3, 4))
    other = half.changed(framework="pytorch", version="2.13.0")
    store_good_runs(tmp_path, whole, [1.0, 1.0])
    store_good_runs(tmp_path, half, [1.0, 1.0])
    found = pending_cells(plan_of([whole, half, other, none]), results=tmp_path, retry_failed=False)
    assert [((other.case_id,), 2), ((none.case_id,), 2)] == [(one.cases, one.left) for one in found]


def test_the_script_of_an_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = cluster(tmp_path, "submit: {parallel_jobs: 2, time: 1h}\n")
    array = [cell(number, nodes=2) for number in range(3)]
    command = ["/opt/python", "-m", "dlperf", "cell", "my results"]
    text = array_script(array, made, name="tiny", results=tmp_path / "r", command=command, after="7")
    assert (
        text
        == f"""\
#!/bin/bash
#SBATCH --job-name=dlperf-tiny
#SBATCH --output=/dev/null
#SBATCH --error={tmp_path}/r/slurm/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=60
#SBATCH --signal=B:USR1@60
#SBATCH --array=0-2%2
#SBATCH --dependency=afterany:7
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --exclusive
#SBATCH --mem=0
tasks=(
    'a-0 b-0'
    'a-1 b-1'
    'a-2 b-2'
)
cd {tmp_path} || exit 5
exec /opt/python -m dlperf cell 'my results' ${{tasks[$SLURM_ARRAY_TASK_ID]}}
"""
    )


# sbatch of a Slurm that allows its user so many jobs at a time, in the words of a real one, which is in
# tests/lab/test_lab_accounts.py.
_SBATCH = """\
#!{python}
import pathlib, re, sys
taken = pathlib.Path({folder!r}, "taken")
before = [int(line) for line in taken.read_text().split()] if taken.exists() else []
text = pathlib.Path(sys.argv[-1]).read_text()
size = int(re.search("--array=0-([0-9]+)", text)[1]) + 1
if sum(before) + size > {most}:
    sys.exit("sbatch: error: AssocMaxSubmitJobLimit\\nsbatch: error: Batch job submission failed: "
             "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)")
taken.write_text(" ".join(map(str, [*before, size])))
print(len(before) + 1)
"""
_TOOLS = {
    "sinfo": 'echo "8|main*|up"',
    "scontrol": 'echo "MaxArraySize            = 5"',
}


def write_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, *, most: int) -> None:
    tools = {name: f"#!/bin/sh\n{body}\n" for name, body in _TOOLS.items()}
    tools["sbatch"] = _SBATCH.format(python=sys.executable, folder=str(folder), most=most)
    for name, text in tools.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("most", "arrays"), [(99, [5, 5, 3]), (13, [5, 5, 3]), (12, [5, 5, 1, 1]), (3, [2, 1])]
)
def test_as_many_cells_are_submitted_as_slurm_takes(
    most: int, arrays: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tools(tmp_path, monkeypatch, most=most)
    cells = [cell(number) for number in range(13)]
    accepted: list[SubmittedJob] = []
    words = r"AssocMaxSubmitJobLimit .*; you have too many jobs: `squeue --me`"
    refusal = pytest.raises(TooManyJobs, match=words)
    made, results = cluster(tmp_path), tmp_path / "r"
    with nullcontext() if sum(arrays) == len(cells) else refusal:
        accepted.extend(submit_cells(cells, made, name="t", results=results, command=["x"]))
    assert arrays == [len(job.tasks) for job in accepted]
    recorded = open_arrays(tmp_path / "r")
    assert recorded == tuple(accepted)
    assert [one.digest for one in cells][: sum(arrays)] == [
        task.cell for job in recorded for task in job.tasks
    ]
    assert read_record(tmp_path / "r").asked is None


def test_ends_are_recorded_and_the_order_of_the_jobs_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tools(tmp_path, monkeypatch, most=99)
    cells = [cell(number) for number in range(7)]
    list(submit_cells(cells, cluster(tmp_path), name="t", results=tmp_path, command=["x"]))
    states = [
        TaskState(job="1_0", cell="x", log=tmp_path, state=JobState(state="COMPLETED")),
        TaskState(job="1_3", cell="x", log=tmp_path, state=JobState(state="TIMEOUT"), left=1),
        TaskState(job="1_4", cell="x", log=tmp_path, state=JobState(state="RUNNING")),
    ]
    record_ends(tmp_path, states)
    first, second = read_record(tmp_path).jobs
    assert ["1", "2"] == [first.number, second.number]
    assert [task.ended for task in first.tasks] == [
        "every run has a result", None, None, "TIMEOUT: it reached its time limit", None
    ]  # fmt: skip
    assert (first, second) == open_arrays(tmp_path)


def test_an_array_of_a_command_that_was_killed_while_it_submitted_is_found_with_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_TOOLS, "squeue", "echo 7; echo 7")  # a line for each job
    write_tools(tmp_path, monkeypatch, most=99)
    tasks = tuple(SubmittedTask(cell=f"{number:012x}", cases=("a",)) for number in range(2))
    asked = AskedJob(name="dlperf-t-0123", asked_at="2026-01-01T00:00:00+00:00", tasks=tasks)
    write_document(tmp_path / "slurm.json", JobRecord(asked=asked))
    assert living_job(tmp_path) is None  # no job that holds its nodes
    assert read_record(tmp_path).asked is None
    (found,) = open_arrays(tmp_path)
    assert ("7", "slurm/7_%a.log", tasks) == (found.number, found.log, found.tasks)


def test_how_many_jobs_run_and_wait_and_why() -> None:
    said = [
        ("PENDING", "Resources"),
        ("RUNNING", ""),
        ("PENDING", "Priority"),
        ("PENDING", ""),
        ("unknown", ""),
    ]
    states = [
        TaskState(job="1", cell="x", log=Path(), state=JobState(state=state, reason=reason))
        for state, reason in said
    ]
    assert list(in_words(states)) == [
        "1 running", "3 waiting (Priority, Resources)", "1 of which Slurm says nothing"
    ]  # fmt: skip
    assert list(in_words([])) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("echo MaxArraySize = 0", "this Slurm has no arrays of jobs"),
        ("echo nothing", "scontrol show config: does not say MaxArraySize; is this a login node"),
    ],
)
def test_without_arrays_the_message_says_what_to_do(
    answer: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_TOOLS, "scontrol", answer)
    write_tools(tmp_path, monkeypatch, most=1)
    with pytest.raises(UserError, match=message):
        longest_array()
