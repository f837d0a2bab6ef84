"""Data sets in a sweep: found, described, refused; the same data set elsewhere is the same case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dlperf.data.make import make
from dlperf.errors import SourceErrors, UserError
from dlperf.plan.load import Sweep, load_sweep, value_setting
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, PlanStatus, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FACES = {"path": "../faces"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a data set and a folder of sweeps."""
    make(tmp_path / "faces", images=40, classes=4, seed=1, parts=2, quality=50)
    (tmp_path / "sweeps").mkdir()
    return tmp_path


@pytest.fixture
def load(folder: Path, adapters: Any) -> Callable[..., Sweep]:
    """Write and load a sweep with the keys, as seen from `folder`."""

    def loaded(*, given: Path | None = None, settings: tuple[str, ...] = (), **keys: Any) -> Sweep:
        content = {
            "experiment": "quickstart", "frameworks": "mxnet", "topology": "1n1g", "num_classes": 10,
            "batch_size_per_device": 8, **keys,
        }  # fmt: skip
        (folder / "sweeps" / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        laid_over = tuple(map(value_setting, settings))
        return load_sweep("s", adapters=adapters, folder=folder, settings=laid_over, data=given)

    return loaded


def planned(sweep: Sweep, adapters: Any) -> Plan:
    return make_plan(sweep, adapters=adapters, machine=Machine(cores=2))


def problem(load: Callable[..., Sweep], **keys: Any) -> str:
    with pytest.raises(SourceErrors) as caught:
        load(**keys)
    return str(caught.value)


def test_a_data_set_is_an_axis(load: Callable[..., Sweep], adapters: Any, folder: Path) -> None:
    axis = ["synthetic", FACES, FACES | {"read": "cold"}]
    plan = planned(load(data=axis), adapters)
    synthetic, warm, cold = (case.data for case in plan.runnable)
    assert synthetic is None
    assert (str(folder / "faces"), "warm", 40, 4) == (warm.path, warm.read, warm.images, warm.classes)
    assert ("recordio", "ofrecord") == warm.forms
    assert "cold" == cold.read
    assert 3 == len({case.case_id for case in plan.runnable})
    assert "_faces-cold-" in plan.runnable[2].case_id


def test_the_same_data_set_elsewhere_is_the_same_case(
    load: Callable[..., Sweep], adapters: Any, folder: Path
) -> None:
    (before,) = planned(load(data=FACES), adapters).runnable
    (folder / "deep").mkdir()
    (folder / "faces").rename(folder / "deep" / "faces")
    (after,) = planned(load(data={"path": "../deep/faces"}), adapters).runnable
    assert before.case_id == after.case_id
    make(folder / "faces", images=41, classes=4, seed=1, parts=2, quality=50)
    (other,) = planned(load(data=FACES), adapters).runnable
    assert before.content_hash != other.content_hash


def test_a_case_without_a_data_set_is_written_as_before(load: Callable[..., Sweep], adapters: Any) -> None:
    (case,) = planned(load(), adapters).runnable
    content = json.loads(case.model_dump_json())
    assert content.keys().isdisjoint({"data", "source"})
    assert "synthetic" == content["workload"]["data"]


def test_the_command_line_names_another(load: Callable[..., Sweep], folder: Path) -> None:
    by_option = load(data={"path": "nowhere"}, given=folder / "faces")
    by_setting = load(data={"path": "nowhere"}, settings=("data.path=faces",))
    assert list(by_option.data_sets.values()) == list(by_setting.data_sets.values())
    with pytest.raises(UserError, match=r"^--data: this sweep reads no data set; write data: "):
        load(given=folder / "faces")
    with pytest.raises(UserError, match=r"^--data: .*/nowhere is not a folder"):
        load(data=FACES, given=folder / "nowhere")


def test_exclusions_and_inclusions_name_it_as_it_stands(load: Callable[..., Sweep], adapters: Any) -> None:
    axis = ["synthetic", FACES]
    exclude = [{"when": {"data": FACES, "batch_size_per_device": 8}, "why": "too small"}]
    include = [{"data": {"path": "../faces", "read": "memory"}}]
    sweep = load(data=axis, batch_size_per_device=[8, 16], exclude=exclude, include=include)
    plan = planned(sweep, adapters)
    read = [(case.batch_size_per_device, case.data and case.data.read) for case in plan.runnable]
    assert [(8, None), (16, None), (16, "warm"), (8, "memory"), (16, "memory")] == read
    assert [PlanStatus.EXCLUDED] == [item.status for item in plan.cases if item.reason]


def test_a_data_set_that_is_not_there_is_named_where_it_stands(load: Callable[..., Sweep]) -> None:
    found = problem(load, data=["synthetic", {"path": "nowhere"}])
    assert found.startswith("sweeps/s.yaml:8:9: data[1].path: ")
    assert found.endswith("; --data DIR names another")
    assert "\n" not in found


def test_a_data_set_of_unknown_classes_is_refused(load: Callable[..., Sweep], folder: Path) -> None:
    (folder / "faces" / "property").unlink()
    assert "its number of classes is not known; write a file `property`" in problem(load, data=FACES)


def test_a_damaged_data_set_is_refused(load: Callable[..., Sweep], folder: Path) -> None:
    (folder / "faces" / "train.rec").write_bytes(b"\0" * 100)
    assert "train.rec" in problem(load, data=FACES)


def test_more_classes_than_the_classifier_has_make_a_case_unavailable(
    load: Callable[..., Sweep], adapters: Any
) -> None:
    (item,) = planned(load(data=FACES, num_classes=3), adapters).cases
    assert PlanStatus.UNAVAILABLE is item.status
    assert (
        "the data set faces has 4 classes, and the classifier 3; set num_classes to 4 or more" == item.reason
    )
