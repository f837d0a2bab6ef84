"""The way to a host is the one that `ssh` takes, and the cluster file wins; with and without `ssh`."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import until

from dlperf.errors import UserError
from dlperf.plan.cluster import load_cluster
from dlperf.running.transports import ssh_config
from dlperf.running.transports.ssh_config import Target, target_of

Resolve = Callable[..., Target]

CONFIG = """\
Host gpu1
  HostName 10.0.0.1
  User bench
  Port 2200
  IdentityFile ~/keys/%h_%r
  IdentitiesOnly yes
  ConnectTimeout 3
Host inner
  HostName 192.168.0.5
  ProxyJump admin@gate:2022,gpu1
  HostKeyAlias the-inner
  UserKnownHostsFile /known/%h /known/more
Host gate
  HostName gate.example.org
Host direct
  ProxyJump none
Host through
  ProxyCommand nc -X 5 %h %p
  UserKnownHostsFile /dev/null
"""


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Path:
    """The home folder that `~` means: for `ssh` always that of the user database."""
    return (
        Path(pwd.getpwuid(os.getuid()).pw_dir)
        if request.node.callspec.params["resolve"] == "ssh"
        else Path.home()
    )


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssh` is not on PATH."""
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture(params=["ssh", "parser"])
def resolve(tmp_path: Path, request: pytest.FixtureRequest) -> Resolve:
    """The target of a node, by the text of a configuration and what the cluster file says of the node."""
    if request.param == "parser":
        request.getfixturevalue("parser")
    elif not shutil.which("ssh"):
        pytest.skip("OpenSSH's client is not installed")

    def target(text: str = CONFIG, **keys: Any) -> Target:
        (tmp_path / "config").write_text(text)
        node = {"name": "gpu1", "devices": 1, "cores": 1, "ssh_config": "config"} | keys
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"nodes": [node]}))
        (spec,) = load_cluster("c.yaml", folder=tmp_path).nodes
        return target_of(spec)

    return target


only_ssh = pytest.mark.parametrize("resolve", ["ssh"], indirect=True)
only_parser = pytest.mark.parametrize("resolve", ["parser"], indirect=True)


def test_an_alias_gives_host_user_port_key_and_timeout(resolve: Resolve, home: Path) -> None:
    target = resolve()
    assert ("10.0.0.1", "bench", 2200, 3.0) == (target.host, target.user, target.port, target.connect_seconds)
    assert ((home / "keys/10.0.0.1_bench",), True) == (target.keys, target.only_keys)
    assert "[10.0.0.1]:2200" == target.known_as
    assert "bench@10.0.0.1:2200" == str(target)


def test_the_cluster_file_wins_and_tokens_follow_it(resolve: Resolve, home: Path) -> None:
    target = resolve(user="root", port=22)
    assert ("10.0.0.1", "root", 22) == (target.host, target.user, target.port)
    assert (home / "keys/10.0.0.1_root",) == target.keys
    assert "10.0.0.9" == resolve(address="10.0.0.9").host
    assert "nc -X 5 through 2222" == resolve(name="through", port=2222).proxy_command


def test_a_host_without_an_entry_is_taken_as_it_is(
    resolve: Resolve, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", pwd.getpwuid(os.getuid()).pw_name)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    target = resolve("", name="plain")
    assert ("plain", pwd.getpwuid(os.getuid()).pw_name, 22) == (target.host, target.user, target.port)
    assert (Path("/run/agent"), False) == (target.agent, target.only_keys)
    assert home / ".ssh/id_ed25519" in target.keys
    assert home / ".ssh/known_hosts" == target.known_hosts[0] == target.new_host_keys
    assert Path("/etc/ssh/ssh_known_hosts") in target.known_hosts


def test_jump_hosts_are_passed_in_their_order_each_with_its_own_entry(resolve: Resolve) -> None:
    target = resolve(name="inner")
    assert ["admin@gate.example.org:2022", "bench@10.0.0.1:2200"] == [str(jump) for jump in target.jumps]
    assert () == resolve(name="direct").jumps


def test_known_hosts_lie_where_the_configuration_says(resolve: Resolve) -> None:
    target = resolve(name="inner")
    assert "the-inner" == target.known_as
    assert (Path("/known/192.168.0.5"), Path("/known/more")) == target.known_hosts[:2]
    assert Path("/known/192.168.0.5") == target.new_host_keys
    assert None is resolve(name="through").new_host_keys


def test_an_agent_can_be_named_or_switched_off(resolve: Resolve) -> None:
    assert Path("/run/mine") == resolve("Host *\n  IdentityAgent /run/mine\n").agent
    assert None is resolve("Host *\n  IdentityAgent none\n").agent


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Host plain\n  ProxyJump gate\nHost gate\n  ProxyJump plain\n",
            "ProxyJump leads in a circle (plain -> gate -> plain)",
        ),
        ("Host *\n  IdentityFile /keys/%Z\n", "dlperf does not know the token %Z in '/keys/%Z'"),
        ("Host *\n  ProxyCommand nc %h %p\n  ProxyUseFdpass yes\n", "dlperf does not know ProxyUseFdpass"),
    ],
)
def test_a_configuration_that_leads_nowhere_is_told(resolve: Resolve, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^ssh configuration of ") as caught:
        resolve(text, name="plain")
    assert message in str(caught.value)


@only_ssh
def test_include_and_match_count_as_for_ssh(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host gpu1\n  HostName 10.0.0.7\n")
    text = (
        f'Include {tmp_path}/more\nMatch host 10.0.0.7 exec "test %p = 2222"\n  User matched\n'
        "Host *\n  User other\n"
    )
    assert "matched@10.0.0.7:2222" == str(resolve(text, port=2222))
    assert "other@10.0.0.7" == str(resolve(text))


@only_ssh
def test_what_ssh_refuses_is_told_in_its_words(resolve: Resolve, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^`ssh -G -F .*/config gpu1` fails: .*/config:? line 2: ") as caught:
        resolve("Host *\n  NoSuchKey yes\n")
    assert "bad configuration option" in str(caught.value).lower()
    with pytest.raises(UserError, match=r"fails: Can't open user config file .*/none"):
        resolve(ssh_config=str(tmp_path / "none"))


@only_ssh
def test_a_match_exec_that_hangs_is_ended(
    resolve: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_config, "_SSH_SECONDS", 1.0)
    pid = tmp_path / "pid"
    with pytest.raises(UserError, match=r"`ssh -G .*` did not end within 1 s; look for a `Match exec`"):
        resolve(f'Match exec "echo $$ > {pid}; sleep 1000"\n  User other\n')
    process = Path("/proc", pid.read_text().strip())
    until(lambda: not process.exists(), what="the command of Match exec is gone")


@only_parser
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Include more", "without `ssh` dlperf does not follow Include"),
        ('Match host gpu1 exec "true"', "without `ssh` dlperf does not follow `Match exec`"),
        ("Match !tagged x", "without `ssh` dlperf does not follow `Match tagged`"),
        ("ProxyJump", "'ProxyJump' is not a keyword with a value"),
    ],
)
def test_without_ssh_a_line_that_cannot_be_followed_is_named(
    resolve: Resolve, tmp_path: Path, line: str, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve(f"# mine\nHost *\n  {line}\n  Port 22\n")
    assert str(caught.value).startswith(f"{tmp_path}/config:3: {problem}; install OpenSSH's client")


@only_parser
def test_without_ssh_match_counts_where_the_parser_knows_it(resolve: Resolve) -> None:
    text = "Host gpu1\n  HostName 10.0.0.7\nMatch host 10.0.0.7 !originalhost other\n  User matched\n"
    assert "matched@10.0.0.7" == str(resolve(text))


@only_parser
def test_without_ssh_a_file_that_cannot_be_read_is_told(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"Host \xff\xfe\n")
    for name, words in (("bytes", "UnicodeDecodeError"), ("none", "FileNotFoundError")):
        with pytest.raises(UserError, match=f"^{tmp_path}/{name}: cannot be read: {words}"):
            resolve(ssh_config=name)
    with pytest.raises(UserError, match=r"Port '99999' is not a number from 1 to 65535"):
        resolve("Port 99999\n")
    with pytest.raises(UserError, match=r"ProxyJump leads in a circle \(gpu1 -> gate -> gate\); put"):
        resolve("ProxyJump gate\n")


@pytest.mark.parametrize("resolve", ["ssh", "parser"], indirect=True)
def test_a_jump_host_that_looks_like_an_option_is_refused(resolve: Resolve) -> None:
    with pytest.raises(UserError, match=r"'?-oProxyCommand"):
        resolve("Host *\n  ProxyJump -oProxyCommand=touch\n", name="plain")
