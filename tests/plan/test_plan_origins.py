"""Versions from elsewhere: wheels and indexes in a sweep, told apart, checked, and never with a secret."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dlperf.adapters.registry import load_adapters
from dlperf.environments.environment import environment_key
from dlperf.errors import SourceErrors
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, PlanStatus, make_plan
from dlperf.plan.versions import Origin, environment_from, sha256_of
from dlperf.running.launch import specification

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.plan.case import Case

NAME = "mxnet-1.9.1-py3-none-any.whl"
INDEX = "https://nightly.example/simple"
ADAPTERS: Any = load_adapters()
LAPTOP = Machine(cores=2)


def write_wheel(folder: Path, name: str = NAME, *, content: str = "one") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mxnet-1.9.1.dist-info/WHEEL", f"Wheel-Version: 1.0\nGenerator: {content}\n")
    return path


def plan_of(folder: Path, *frameworks: Any, machine: Machine = LAPTOP, **keys: Any) -> Plan:
    content = {
        "experiment": "quickstart", "frameworks": list(frameworks), "topology": "1n1g",
        "batch_size_per_device": 8, **keys,
    }  # fmt: skip
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "s.yaml").write_text(yaml.safe_dump(content))
    sweep = load_sweep("sweeps/s.yaml", adapters=ADAPTERS, folder=folder)
    return make_plan(sweep, adapters=ADAPTERS, machine=machine)


def problem(folder: Path, *frameworks: Any, **keys: Any) -> str:
    with pytest.raises(SourceErrors) as caught:
        plan_of(folder, *frameworks, **keys)
    (found,) = caught.value.problems
    return str(found)


def spec_of(plan: Plan, case: Case) -> EnvironmentSpec:
    spec, python = specification(case, adapter=ADAPTERS[case.framework], plan=plan)
    assert python is None
    return spec


@pytest.mark.parametrize("form", ["text", "mapping"])
def test_a_wheel_is_a_version_beside_that_of_the_same_number(tmp_path: Path, form: str) -> None:
    wheel = write_wheel(tmp_path / "dist")
    written = f"../dist/{NAME}"
    entry = f"mxnet @ {written}" if form == "text" else {"name": "mxnet", "wheel": written}
    plan = plan_of(tmp_path, "mxnet==1.9.1", entry)
    usual, own = plan.runnable
    digest = sha256_of(wheel)
    assert ("1.9.1", f"1.9.1+wheel.{digest[:8]}") == (usual.version, own.version)
    assert f"mxnet-1.9.1+wheel.{digest[:8]}_" in own.case_id
    spec = spec_of(plan, own)
    assert spec.wheel is not None
    assert (str(wheel), digest) == (spec.wheel.path, spec.wheel.sha256)
    assert replace(spec_of(plan, usual), wheel=spec.wheel, pythons=spec.pythons, notes=spec.notes) == spec


def test_another_content_of_the_wheel_is_another_version(tmp_path: Path) -> None:
    entry = f"mxnet @ ../dist/{NAME}"
    write_wheel(tmp_path / "dist")
    before = plan_of(tmp_path, entry).runnable[0]
    write_wheel(tmp_path / "dist", content="two")
    after = plan_of(tmp_path, entry).runnable[0]
    assert before.case_id != after.case_id


def test_an_index_is_a_version_beside_that_of_the_same_number(tmp_path: Path) -> None:
    entry = {"name": "pytorch", "version": "2.14.0.dev20261101", "index": INDEX}
    plan = plan_of(tmp_path, "pytorch==2.13.0", entry)
    usual, nightly = plan.runnable
    assert nightly.version.startswith("2.14.0.dev20261101+index.")
    spec = spec_of(plan, nightly)
    assert (INDEX, "2.14.0.dev20261101") == (spec.index, spec.version)
    assert "torch==2.14.0.dev20261101" == spec.requirements[0]
    assert spec_of(plan, usual).requirements[1:] == spec.requirements[1:]
    assert spec.torch_backend is None  # it would take the place of the index


@pytest.mark.parametrize("form", ["text", "mapping"])
@pytest.mark.parametrize("place", ["https://staging.example/cu118/index.html", "../dist"])
def test_links_are_a_version_beside_that_of_the_same_number(tmp_path: Path, form: str, place: str) -> None:
    (tmp_path / "dist").mkdir()
    mapping = {"name": "oneflow", "version": "0.9.1", "find_links": place}
    entry = mapping if form == "mapping" else f"oneflow==0.9.1 @ find-links={place}"
    plan = plan_of(tmp_path, "oneflow==0.9.0", entry)
    usual, own = plan.runnable
    assert own.version.startswith("0.9.1+links.")
    spec = spec_of(plan, own)
    expected = place if "://" in place else str(tmp_path / "dist")
    assert ("0.9.1", expected) == (spec.version, spec.find_links)
    assert ("oneflow==0.9.1", *spec_of(plan, usual).requirements[1:]) == spec.requirements
    read = Plan.model_validate_json(plan.model_dump_json())
    assert {f"oneflow=={own.version}": Origin(version="0.9.1", find_links=expected)} == read.origins
    assert environment_key(spec) != environment_key(replace(spec, find_links="/other"))


def test_a_folder_of_wheels_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    found = problem(tmp_path, {"name": "oneflow", "version": "0.9.1", "find_links": "../nowhere"})
    assert "frameworks[0].find_links: there is no such folder; write a folder, or a URL such as" in found


def test_a_frozen_plan_holds_the_origin_and_plans_without_one_are_written_as_before(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"name": "pytorch", "version": "2.14.0", "index": INDEX})
    read = Plan.model_validate_json(plan.model_dump_json())
    assert {f"pytorch=={plan.runnable[0].version}": Origin(version="2.14.0", index=INDEX)} == read.origins
    assert "origins" not in plan_of(tmp_path, "pytorch").model_dump_json()


def test_an_included_wheel_is_one_too(tmp_path: Path) -> None:
    write_wheel(tmp_path / "dist")
    include = {"frameworks": [f"mxnet @ ../dist/{NAME}"], "batch_size_per_device": 4}
    plan = plan_of(tmp_path, "mxnet==1.9.1", include=[include])
    assert ["1.9.1", f"1.9.1+wheel.{sha256_of(tmp_path / 'dist' / NAME)[:8]}"] == [
        case.version for case in plan.runnable
    ]


def test_a_build_of_a_newer_version_gets_the_pins_of_the_newest_known_one() -> None:
    origin = Origin(version="1.10.0", index=INDEX)
    spec = environment_from(origin, adapter=ADAPTERS["mxnet"], device="cpu", parallel=False)
    known = ADAPTERS["mxnet"].environment("1.9.1", "cpu")
    assert ("mxnet==1.10.0", *known.requirements[1:]) == spec.requirements
    older = environment_from(
        Origin(version="1.8.5", index=INDEX), adapter=ADAPTERS["mxnet"], device="cpu", parallel=False
    )
    assert ADAPTERS["mxnet"].environment("1.8.0.post0", "cpu").pythons == older.pythons


def test_the_pythons_are_those_of_the_wheel(tmp_path: Path) -> None:
    name = "oneflow-0.9.1-cp311-cp311-manylinux2014_x86_64.whl"
    write_wheel(tmp_path, name)
    plan = plan_of(tmp_path, f"oneflow @ ../{name}")
    assert ("3.11",) == spec_of(plan, plan.runnable[0]).pythons


def test_the_wheel_of_another_device_is_not_available(tmp_path: Path) -> None:
    name = "mxnet_cu112-1.9.1-py3-none-any.whl"
    write_wheel(tmp_path, name)
    (item,) = plan_of(tmp_path, f"mxnet @ ../{name}", device="cpu").cases
    assert PlanStatus.UNAVAILABLE is item.status
    assert "the wheel contains mxnet-cu112, but on cpu mxnet installs mxnet" == item.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing-1.0-py3-none-any.whl", "there is no file"),
        ("mxnet.whl", "mxnet.whl is not a wheel's file name, such as mxnet-1.9.1-py3-none-"),
        ("numpy-2.0.0-py3-none-any.whl", "contains numpy; mxnet installs mxnet or mxnet-cu112"),
        (
            "mxnet-1.9.1-cp37-cp37m-manylinux2014_x86_64.whl",
            "fits no CPython from 3.8 to 3.14 on this machine",
        ),
        ("mxnet-1.9.1-cp310-cp310-win_amd64.whl", "(cp310-cp310-win_amd64)"),
    ],
)
def test_a_wheel_that_cannot_be_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    if not name.startswith("missing"):
        write_wheel(tmp_path, name)
    found = problem(tmp_path, "mxnet==1.9.1", {"name": "mxnet", "wheel": f"../{name}"})
    assert found.startswith("sweeps/s.yaml:")
    assert "frameworks[1].wheel: " in found
    assert message in found
    assert "\n" not in found


def test_a_file_that_is_no_archive_is_no_wheel(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("not one")
    assert "is not a wheel: not a zip archive with a .dist-info folder" in problem(
        tmp_path, f"mxnet @ ../{NAME}"
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"wheel": "x.whl", "version": "1"}, "a wheel, which already states its version; remove version"),
        ({"wheel": "x.whl", "python": "/p"}, "has python and wheel; keep only one of them"),
        ({"index": INDEX}, "has an index; add the version to install from it"),
        ({"version": "1", "index": "http://nightly.example/simple"}, "is not encrypted"),
        ({"version": "1", "index": "nightly.example"}, "is not a package index; write a URL"),
        ({"version": "1", "index": "https://[/simple"}, "is not a package index; write a URL"),
        ({"find_links": "/wheels"}, "has find_links; add the version to install from there"),
        ({"version": "1", "index": INDEX, "find_links": INDEX}, "has index and find_links; keep only one"),
        ({"version": "1", "find_links": "http://staging.example/x.html"}, "is not encrypted"),
        ({"version": "1", "find_links": "ftp://staging.example"}, "is not a page of links; write a URL"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    assert message in problem(tmp_path, {"name": "mxnet", **entry})


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@nightly.example/simple",
        "https://hunter2@nightly.example/simple",
        "https://nightly.example/simple?token=hunter2",
        "https://nightly.example/simple#hunter2",
    ],
)
@pytest.mark.parametrize("key", ["index", "find_links"])
def test_a_secret_in_a_place_is_refused_and_not_repeated(tmp_path: Path, key: str, url: str) -> None:
    found = problem(tmp_path, {"name": "mxnet", "version": "1.9.1", key: url})
    assert "never put secrets into a sweep" in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/simple", "http://localhost/simple", "file:///srv/simple"]
)
def test_an_index_of_this_machine_needs_no_encryption(tmp_path: Path, url: str) -> None:
    plan = plan_of(tmp_path, {"name": "mxnet", "version": "1.9.1", "index": url})
    assert url == spec_of(plan, plan.runnable[0]).index
