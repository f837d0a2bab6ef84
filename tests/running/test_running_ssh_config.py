"""What `ssh NAME` would use is what dlperf uses, and the cluster file wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paramiko.config import SSHConfig

from dlperf.errors import UserError
from dlperf.plan.cluster import load_cluster
from dlperf.running.transports.ssh_config import Target, read_config, target_of

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """\
Host gpu1
  HostName 10.0.0.1
  User bench
  Port 2200
  IdentityFile ~/keys/one
  IdentitiesOnly yes
Host inner
  HostName 192.168.0.5
  ProxyJump admin@gate:2022,gpu1
  HostKeyAlias the-inner
  UserKnownHostsFile ~/.ssh/inner_hosts
Host gate
  HostName gate.example.org
Host direct
  ProxyJump none
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "me")
    return tmp_path


def target(folder: Path, text: str = CONFIG, **keys: Any) -> Target:
    node = {"name": "gpu1", "devices": 1, "cores": 1} | keys
    (folder / "c.yaml").write_text(f"nodes: [{node}]\n".replace("'", '"'))
    (node_spec,) = load_cluster("c.yaml", folder=folder).nodes
    return target_of(node_spec, SSHConfig.from_text(text))


def test_an_alias_gives_host_user_port_and_key(home: Path) -> None:
    found = target(home)
    assert ("10.0.0.1", "bench", 2200) == (found.host, found.user, found.port)
    assert ((home / "keys/one",), False) == (found.keys, found.agent)
    assert "[10.0.0.1]:2200" == found.known_as
    assert "bench@10.0.0.1:2200" == str(found)


def test_the_cluster_file_wins(home: Path) -> None:
    found = target(home, user="root", port=22, address="10.0.0.9")
    assert ("10.0.0.9", "root", 22) == (found.host, found.user, found.port)


def test_a_host_that_stands_nowhere_is_taken_as_it_is(home: Path) -> None:
    found = target(home, text="", name="plain")
    assert ("plain", "me", 22, (), True) == (found.host, found.user, found.port, found.keys, found.agent)
    assert found.known_hosts[0] == home / ".ssh/known_hosts"


def test_jump_hosts_are_passed_in_their_order(home: Path) -> None:
    found = target(home, name="inner")
    assert ["admin@gate.example.org:2022", "bench@10.0.0.1:2200"] == [str(jump) for jump in found.jumps]
    assert ("the-inner", home / ".ssh/inner_hosts") == (found.known_as, found.known_hosts[0])
    assert () == target(home, name="direct").jumps


def test_a_configuration_that_cannot_be_read_is_told(home: Path) -> None:
    (home / ".ssh").mkdir()
    assert read_config().get_hostnames() == set()
    (home / ".ssh" / "config").write_bytes(b"Host \xff\xfe\n")
    with pytest.raises(UserError, match=r"\.ssh/config: cannot be read: "):
        read_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Host *\n  Port abc\n", "Port of plain is 'abc'"),
        ("Host *\n  Port 99999\n", "Port of plain is '99999'"),
        ("Host *\n  ProxyJump gate\n", "ProxyJump leads in a circle (plain -> gate -> gate)"),
        (
            "Host plain\n  ProxyJump gate\nHost gate\n  ProxyJump plain\n",
            "ProxyJump leads in a circle (plain -> gate -> plain)",
        ),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_configuration_that_leads_nowhere_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^~/\.ssh/config: ") as caught:
        target(tmp_path, text=text, name="plain")
    assert message in str(caught.value)
