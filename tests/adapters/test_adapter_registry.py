"""Adapters come from entry points of real installed packages; a broken one takes nothing else down."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING

import pytest

from dlperf import plugins
from dlperf.adapters.registry import GROUP, load_adapters
from dlperf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHIPPED = {
    "arcface_oneflow": "arcface_oneflow",
    "arcface_torch": "arcface_torch",
    "insightface_mxnet": "InsightFace (MXNet)",
    "jax": "JAX",
    "mxnet": "MXNet",
    "oneflow": "OneFlow",
    "oneflow_face": "oneflow_face",
    "pytorch": "PyTorch",
}

GOOD = """
class Adapter:
    name = "{name}"
    title = "Good"
    source = None
    inherited_variables = ()
    alignable = False
    versions = ("1.0",)
    options = None
    environment = unsupported = rank_commands = None

ADAPTER = Adapter()
"""


def install(folder: Path, package: str, *, module: str, source: str, points: dict[str, str]) -> None:
    """What pip would leave of a package with these entry points."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)


def points_of(site: Path, group: str) -> list[EntryPoint]:
    return [
        point for found in distributions(path=[str(site)]) for point in found.entry_points.select(group=group)
    ]


def test_the_shipped_adapters_are_loaded() -> None:
    said: list[str] = []
    adapters = load_adapters(report=said.append)
    assert SHIPPED == {name: adapter.title for name, adapter in adapters.items()}
    assert sorted(SHIPPED) == list(adapters)
    assert [] == said


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_registered_under_its_name_and_originals_stand_beside_a_loop_of_the_same_engine(
    name: str,
) -> None:
    adapters = load_adapters()
    adapter = adapters[name]
    assert adapter is vars(importlib.import_module(f"dlperf.adapters.{name}"))["ADAPTER"]
    assert adapter.alignable == (adapter.source is None)
    if adapter.source is not None:
        assert adapters[adapter.source.engine].source is None
        assert all(len(commit) == 40 for commit in adapter.source.commits)


def test_an_installed_package_adds_one(site: Path) -> None:
    install(
        site,
        "good-one",
        module="good_one",
        source=GOOD.format(name="good"),
        points={"good": "good_one:ADAPTER"},
    )
    adapters = load_adapters()
    assert sorted(["good", *SHIPPED]) == list(adapters)
    assert "Good" == adapters["good"].title


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("import no_such_module", "ADAPTER", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError", "ADAPTER", "RuntimeError"),
        ("def broken(:", "ADAPTER", "SyntaxError: "),
        ("", "ADAPTER", "AttributeError: module 'bad_one' has no attribute 'ADAPTER'"),
        (
            "ADAPTER = object()",
            "ADAPTER",
            "TypeError: it has no name, title, versions, options, source, inherited_variables",
        ),
        (GOOD.format(name="other"), "ADAPTER", "calls itself 'other' but is registered as 'bad'"),
    ],
)
def test_a_broken_one_is_named_and_the_others_work(source: str, value: str, reason: str, site: Path) -> None:
    install(site, "bad-one", module="bad_one", source=source, points={"bad": f"bad_one:{value}"})
    said: list[str] = []
    assert sorted(SHIPPED) == list(load_adapters(report=said.append))
    (line,) = said
    assert line.startswith("adapter 'bad' of package bad-one cannot be used: ")
    assert reason in line


def test_two_packages_of_one_name_are_refused(site: Path) -> None:
    for package in ("first", "second"):
        module = f"{package}_module"
        source = GOOD.format(name="same")
        install(site, package, module=module, source=source, points={"same": f"{module}:ADAPTER"})
    with pytest.raises(UserError) as caught:
        load_adapters()
    assert "adapter 'same' is registered 2 times, by packages first, second; uninstall all but one" == str(
        caught.value
    )


def test_a_package_listed_twice_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        site,
        "good-one",
        module="good_one",
        source=GOOD.format(name="good"),
        points={"good": "good_one:ADAPTER"},
    )
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: points_of(site, group) * 2)
    assert ["good"] == list(load_adapters())
