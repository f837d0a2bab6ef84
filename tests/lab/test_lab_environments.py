"""Environments on nodes: made there with uv, made here and copied, or the user's own."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.adapters.base import EnvironmentSpec, WheelFile
from dlperf.errors import EnvironmentUnavailable
from dlperf.plan.cluster import load_cluster
from dlperf.plan.versions import sha256_of
from dlperf.running.transports.ssh import SshNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_lab import ClusterLab
    from netlab import NetLab

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def spec(version: str = "1.0", **changes: Any) -> EnvironmentSpec:
    settings: dict[str, Any] = {
        "framework": "tiny",
        "version": version,
        "pythons": (PYTHON,),
        "requirements": (f"tiny=={version}",),
        "import_check": "import tiny; print(tiny.version)",
    }
    return EnvironmentSpec(**(settings | changes))


@pytest.fixture
def wheels(netlab: NetLab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that all hosts see, with the wheel of a package; there is no index anywhere."""
    folder = netlab.folder / "wheels"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "version = '1.0'\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def node_of(
    lab: ClusterLab, netlab: NetLab, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SshNode]]:
    monkeypatch.setenv("HOME", str(netlab.home))
    monkeypatch.setenv("DLPERF_CACHE", str(lab.folder / "cache"))
    made: list[SshNode] = []

    def node(**keys: Any) -> SshNode:
        # Each test its own working folder, and a PATH without the uv of this machine.
        variables = {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"}
        lab.write_cluster(nodes=["node1"], folder=f"/root/{lab.mark}", environment=variables, **keys)
        cluster = load_cluster("lab", folder=lab.folder)
        made.append(SshNode(cluster.nodes[0], cluster="lab", say=said.append))
        made[-1].connect()
        return made[-1]

    said: list[str] = []
    yield node
    for each in made:
        each.close()


def printed(node: SshNode, python: Path) -> str:
    channel = node.start([str(python), "-c", "import sys, tiny; print(tiny.version, sys.prefix)"])
    return channel.recv(1000).decode() or channel.recv_stderr(1000).decode()


@pytest.mark.usefixtures("wheels")
def test_one_is_made_on_the_node_with_the_uv_that_is_brought_there(
    node_of: Callable[..., SshNode], netlab: NetLab
) -> None:
    """uv's downloads lie in the folder of the cluster file too: the home folder may be full."""
    node = node_of()
    assert node._hello["uv"] is None
    made = node.environment(spec(), python=None)
    assert made.manifest.packages == {"tiny": "1.0"}
    assert made.manifest.version == "1.0"
    assert made.root.parent.parent == Path(node.work)
    assert printed(node, made.python) == f"1.0 {made.root}\n"
    assert node.environment(spec(), python=None) == made  # found again
    host = netlab.hosts[1]
    assert host.path(f"{node.work}/uv-cache/CACHEDIR.TAG").exists()
    assert not host.path("/root/.cache/uv").exists()


def test_what_cannot_be_made_is_told_with_the_way_out(node_of: Callable[..., SshNode], wheels: Path) -> None:
    del wheels
    with pytest.raises(EnvironmentUnavailable) as caught:
        node_of().environment(spec("2.0"), python=None)
    assert str(caught.value).startswith("tiny==2.0 on node1: ")
    assert "`environments: copy` in the cluster file makes it here and copies it" in str(caught.value)


@pytest.mark.usefixtures("wheels")
def test_one_is_made_here_and_copied_to_a_node_that_reaches_no_index(node_of: Callable[..., SshNode]) -> None:
    node = node_of(environments="copy")
    made = node.environment(spec(), python=None)
    assert printed(node, made.python) == f"1.0 {made.root}\n"
    assert made.root.parent.parent == Path(node.work)


def test_a_wheel_of_the_users_own_is_installed_here_and_the_environment_copied(
    node_of: Callable[..., SshNode], lab: ClusterLab, monkeypatch: pytest.MonkeyPatch, wheels: Path
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")  # it lies on this machine alone
    path = lab.folder / "tiny-1.0-py3-none-any.whl"
    path.write_bytes((wheels / path.name).read_bytes())
    node = node_of()
    own = spec(wheel=WheelFile(path=str(path), sha256=sha256_of(path)))
    made = node.environment(own, python=None)
    assert printed(node, made.python) == f"1.0 {made.root}\n"
    assert made.root.parent.parent == Path(node.work)
    assert node._hello["uv"] is None


def test_the_users_own_interpreter_is_checked_on_the_node(node_of: Callable[..., SshNode]) -> None:
    node = node_of()
    own = spec(sys.version.split()[0], import_check="import sys; print(sys.version.split()[0])")
    assert node.environment(own, python=Path(sys.executable)).python == Path(sys.executable)
    with pytest.raises(EnvironmentUnavailable, match="has tiny 1, not 9"):
        node.environment(spec("9", import_check="print('1')"), python=Path(sys.executable))
    with pytest.raises(EnvironmentUnavailable, match="No module named 'tiny'"):
        node.environment(spec(), python=Path(sys.executable))
    with pytest.raises(EnvironmentUnavailable, match="/no/python is not an executable on this node"):
        node.environment(spec(), python=Path("/no/python"))
