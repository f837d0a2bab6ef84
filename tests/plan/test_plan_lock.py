"""A frozen plan resumes, grows, or is refused with what changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import at_most

from dlperf.errors import UserError
from dlperf.files import write_document
from dlperf.layout import LOCK_NAME
from dlperf.plan.load import Setting, axis_setting, load_sweep, value_setting
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, compare_plans, freeze, make_plan, read_lock

SWEEP = """\
experiment: quickstart
frameworks: [mxnet==1.9.1, {name: oneflow, version: 0.9.0, python: /opt/of/bin/python}]
topology: [1n1g, 1n2g]
batch_size_per_device: 8
exclude: [{when: {framework: mxnet, topology: 1n2g}, why: slow}]
options: {mxnet: {fast: true, level: 2}}
measure: {repeats: 3}
"""


class Project:
    """A folder with a sweep file that can be planned again and again."""

    def __init__(self, folder: Path, adapters: Any, machine: Machine) -> None:
        self.folder, self.adapters, self.machine = folder, adapters, machine

    def plan(self, text: str = SWEEP, *given: Setting) -> Plan:
        (self.folder / "s.yaml").write_text(text)
        sweep = load_sweep("s.yaml", adapters=self.adapters, settings=given, folder=self.folder)
        return make_plan(sweep, adapters=self.adapters, machine=self.machine)


@pytest.fixture
def project(tmp_path: Path, adapters: Any, laptop: Machine) -> Project:
    return Project(tmp_path, adapters, laptop)


def test_a_plan_is_the_same_after_writing_and_reading(project: Project, tmp_path: Path) -> None:
    plan = project.plan()
    write_document(tmp_path / "results" / LOCK_NAME, plan)
    assert plan == read_lock(tmp_path / "results" / LOCK_NAME)
    assert [LOCK_NAME] == [path.name for path in (tmp_path / "results").iterdir()]  # nothing left beside it


def test_a_frozen_plan_is_flushed_to_the_disk_with_its_folder(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that loses what was not flushed cannot be had in a test: the calls are recorded in its place.
    flushed: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", recorded)
    freeze(project.plan(), tmp_path / "results")
    file, folder = flushed
    assert f"{tmp_path}/results/.{LOCK_NAME}." == file[: -len("12345678")]
    assert str(tmp_path / "results") == folder


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=at_most(30), deadline=None
)
@given(
    topology=st.lists(st.sampled_from(["1n1g", "1n2g", "4n8g"]), min_size=1, max_size=3, unique=True),
    precision=st.sampled_from(["fp32", "fp16", "bf16"]),
    order=st.sampled_from(["interleaved", "sequential", "shuffled"]),
    repeats=st.integers(1, 9),
    seed=st.integers(0, 2**40),
)
def test_any_plan_survives_the_file(
    project: Project, tmp_path: Path, topology: list[str], precision: str, order: str, repeats: int, seed: int
) -> None:
    plan = project.plan(
        SWEEP,
        axis_setting(f"topology={','.join(topology)}"),
        *map(
            value_setting,
            (f"precision={precision}", f"order={order}", f"measure.repeats={repeats}", f"seed={seed}"),
        ),
    )
    write_document(tmp_path / LOCK_NAME, plan)
    assert plan == read_lock(tmp_path / LOCK_NAME)
    assert [] == list(compare_plans(plan, read_lock(tmp_path / LOCK_NAME)))


def begin(folder: Path) -> Path:
    """A run was begun there."""
    (folder / "runs" / "case" / "r1").mkdir(parents=True)
    return folder


def test_a_plan_of_which_nothing_was_begun_gives_way_to_another(project: Project, tmp_path: Path) -> None:
    """What could not run as it was asked for, such as a limit without a budget, is asked for again."""
    freeze(project.plan(), tmp_path)
    other = freeze(project.plan(SWEEP, axis_setting("topology=1n1g")), tmp_path)
    assert read_lock(tmp_path / LOCK_NAME) == other


def test_an_unchanged_plan_resumes_and_leaves_the_file_alone(project: Project, tmp_path: Path) -> None:
    frozen = freeze(project.plan(), begin(tmp_path))
    before = (tmp_path / LOCK_NAME).stat().st_mtime_ns
    assert frozen == freeze(project.plan(f"# a comment\n{SWEEP}"), tmp_path).model_copy(
        update={"sources": frozen.sources}
    )
    assert before == (tmp_path / LOCK_NAME).stat().st_mtime_ns


def test_more_repeats_extend_the_plan(project: Project, tmp_path: Path) -> None:
    freeze(project.plan(), begin(tmp_path))
    plan = freeze(project.plan(SWEEP, value_setting("measure.repeats=5")), tmp_path)
    assert 5 * len(plan.runnable) == len(plan.runs)
    assert 5 == read_lock(tmp_path / LOCK_NAME).repeats


def test_fewer_repeats_run_less_and_keep_the_file(project: Project, tmp_path: Path) -> None:
    freeze(project.plan(), begin(tmp_path))
    assert 1 == freeze(project.plan(SWEEP, value_setting("measure.repeats=1")), tmp_path).repeats
    assert 3 == read_lock(tmp_path / LOCK_NAME).repeats


@pytest.mark.parametrize(
    "setting", ["batch_size_per_device=8,16", "num_classes=10,20", "precision=fp32,fp16", "measure.repeats=4"]
)
def test_a_sweep_that_has_run_can_grow(project: Project, tmp_path: Path, setting: str) -> None:
    """A case is its content hash: what was there stays, and its results count."""
    text = f"{SWEEP}num_classes: 10\n"
    before = freeze(project.plan(text), begin(tmp_path))
    more = value_setting(setting) if setting.startswith("measure") else axis_setting(setting)
    after = freeze(project.plan(text, more), tmp_path)
    assert set(before.runs) < set(after.runs)
    assert after == read_lock(tmp_path / LOCK_NAME)
    assert after == freeze(project.plan(text, more), tmp_path)


def test_a_sweep_that_has_grown_does_not_shrink_unnoticed(project: Project, tmp_path: Path) -> None:
    freeze(project.plan(SWEEP, axis_setting("precision=fp32,fp16")), begin(tmp_path))
    with pytest.raises(UserError, match="holds results of another plan"):
        freeze(project.plan(SWEEP), tmp_path)


def test_a_framework_may_be_added(project: Project, tmp_path: Path) -> None:
    alone = SWEEP.replace("mxnet==1.9.1, ", "")
    alone = alone.replace("exclude: [{when: {framework: mxnet, topology: 1n2g}, why: slow}]\n", "")
    alone = alone.replace("options: {mxnet: {fast: true, level: 2}}\n", "")
    before = freeze(project.plan(alone), begin(tmp_path))
    after = freeze(project.plan(SWEEP), tmp_path)
    assert set(before.runs) < set(after.runs)


def test_a_sweep_does_not_grow_and_shrink_at_once(project: Project, tmp_path: Path) -> None:
    freeze(project.plan(), begin(tmp_path))
    grown = project.plan(SWEEP, axis_setting("precision=fp32,fp16"), value_setting("measure.repeats=1"))
    with pytest.raises(UserError, match="give it 3 repeats or more"):
        freeze(grown, tmp_path)


def test_a_run_may_be_disturbed_more_or_less_without_its_case_becoming_another(
    project: Project, tmp_path: Path
) -> None:
    before = freeze(project.plan(), begin(tmp_path))
    settings = map(value_setting, ("measure.max_interference=0.2", "limits.time=5m", "measure.repeats=1"))
    plan = freeze(project.plan(SWEEP, *settings), tmp_path)
    assert [item.case_id for item in before.cases] == [item.case_id for item in plan.cases]
    assert {0.02} == {case.measure.max_interference for case in before.runnable}
    assert {0.2} == {case.measure.max_interference for case in plan.runnable}
    frozen = read_lock(tmp_path / LOCK_NAME)
    assert (before.repeats, 300.0) == (frozen.repeats, frozen.limits.time)
    assert plan.runnable == frozen.runnable


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("device: 8", "device: 16", ["-batch_size_per_device: 8", "+batch_size_per_device: 16"]),
        ("seed: 0", "seed: 1", []),
        ("why: slow", "why: slow}, {when: {framework: oneflow, topology: 1n2g}, why: also", []),
        ("/opt/of", "/opt/other", ["-python of oneflow==0.9.0 /opt/of/bin/python"]),
        ("repeats: 3}", "repeats: 3}\norder: sequential", ["-order interleaved", "+order sequential"]),
    ],
)  # fmt: skip
def test_a_changed_plan_is_refused_with_a_diff(
    project: Project, tmp_path: Path, old: str, new: str, shown: list[str]
) -> None:
    before = SWEEP + "seed: 0\n"
    freeze(project.plan(before), begin(tmp_path))
    content = (tmp_path / LOCK_NAME).read_bytes()
    with pytest.raises(UserError, match="holds results of another plan") as caught:
        freeze(project.plan(before.replace(old, new)), tmp_path)
    lines = str(caught.value).splitlines()
    assert {"--- s.yaml (frozen)", "+++ s.yaml", *shown} <= set(lines)
    assert content == (tmp_path / LOCK_NAME).read_bytes()


def test_a_change_from_the_command_line_shows_in_the_cases(project: Project, tmp_path: Path) -> None:
    text = f"{SWEEP}threads_per_device: 1\n"  # auto follows the topologies
    freeze(project.plan(text), begin(tmp_path))
    with pytest.raises(UserError) as caught:
        freeze(project.plan(text, axis_setting("topology=1n1g")), tmp_path)
    removed = [line for line in str(caught.value).splitlines() if line.startswith("-oneflow")]
    assert {"-settings: none", "+settings: -P topology=1n1g"} <= set(str(caught.value).splitlines())
    assert 1 == len(removed)
    assert "_1n2g_" in removed[0]


def test_another_machine_makes_other_cases_and_is_named(project: Project, tmp_path: Path) -> None:
    freeze(project.plan(), begin(tmp_path))
    project.machine = Machine(cores=4)
    with pytest.raises(UserError) as caught:
        freeze(project.plan(), tmp_path)
    assert {"-machine: 2 CPU cores, no NVIDIA GPU", "+machine: 4 CPU cores, no NVIDIA GPU"} <= set(
        str(caught.value).splitlines()
    )


def test_a_long_difference_is_cut(project: Project, tmp_path: Path) -> None:
    freeze(
        project.plan(SWEEP, axis_setting("num_classes=" + ",".join(map(str, range(10, 60))))), begin(tmp_path)
    )
    with pytest.raises(UserError, match=r"\.\.\. and [0-9]+ more lines$"):
        freeze(project.plan(), tmp_path)


def test_a_lock_of_another_schema_or_a_damaged_one_is_named(project: Project, tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    write_document(path, project.plan())
    content = json.loads(path.read_text())
    for damaged, message in (
        (
            json.dumps({**content, "schema_version": 2}),
            "a plan of schema version 2; this dlperf reads up to 1",
        ),
        (json.dumps({**content, "repeats": "three"}), "no plan: repeats"),
        (path.read_text()[:100], "no plan: not JSON"),
        ("[]", "no plan: the file"),
    ):
        path.write_text(damaged)
        with pytest.raises(UserError, match=message):
            freeze(project.plan(), tmp_path)


def test_notes_may_be_written_later_and_plans_without_any_are_what_they_were(
    project: Project, tmp_path: Path
) -> None:
    freeze(project.plan(), begin(tmp_path))
    assert '"notes"' not in (tmp_path / LOCK_NAME).read_text()
    freeze(project.plan(f"{SWEEP}notes: Is it slower?\n"), tmp_path)
    assert "Is it slower?" == read_lock(tmp_path / LOCK_NAME).notes
