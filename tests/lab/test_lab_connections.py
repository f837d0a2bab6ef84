"""How nodes are reached: keys, host keys, jump hosts, the user's own configuration; what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi
from processes import until

from dlperf.adapters.registry import load_adapters
from dlperf.errors import EnvironmentUnavailable
from dlperf.plan.cluster import load_cluster
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.ssh import SshNode

if TYPE_CHECKING:
    from cluster_lab import ClusterLab
    from netlab import NetLab

# To connect and to be refused; the limits of a node that says nothing are longer.
CONNECT_SECONDS = 15.0


@pytest.fixture
def home(netlab: NetLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, with the lab's key and known hosts."""
    shutil.copytree(netlab.home / ".ssh", tmp_path / "home" / ".ssh")
    config = tmp_path / "home" / ".ssh" / "config"
    config.write_text(config.read_text().replace(str(netlab.home), str(tmp_path / "home")))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "home"


@pytest.fixture
def node_of(lab: ClusterLab, home: Path) -> Iterator[Callable[..., SshNode]]:
    """A node by what a cluster file says of it, with the ssh configuration of `home`."""
    made: list[SshNode] = []

    def node(**keys: Any) -> SshNode:
        lab.write_cluster(nodes=[{"name": "node1"} | keys], ssh_config=str(home / ".ssh" / "config"))
        cluster = load_cluster("lab", folder=lab.folder)
        made.append(SshNode(cluster.nodes[0], cluster="lab", say=lambda _text: None))
        return made[-1]

    yield node
    for each in made:
        each.close()


@pytest.fixture(params=["ssh", "parser"])
def resolver(request: pytest.FixtureRequest, lab: ClusterLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OpenSSH's client, and with none on PATH."""
    del lab  # which needs tools
    if request.param == "parser":
        monkeypatch.setenv("PATH", "/nowhere")


def refusal(node: SshNode) -> str:
    with pytest.raises(NodeLost) as caught:
        node.connect()
    assert node.trouble == str(caught.value)
    return str(caught.value)


def configure(home: Path, text: str) -> None:
    """Put lines before those of the user's configuration."""
    config = home / ".ssh" / "config"
    config.write_text(text + config.read_text())


def read_bytes(path: Path) -> bytes:
    """A file of /proc; nothing where its process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def known_hosts(home: Path) -> Path:
    return home / ".ssh" / "known_hosts"


def test_a_host_is_found_by_its_alias(node_of: Callable[..., SshNode]) -> None:
    node = node_of()
    node.connect()
    assert node.facts().host == "node1"
    assert 1024 <= node.free_port() < 65536


def test_an_unknown_host_is_refused_with_the_line_that_adds_it(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab
) -> None:
    known_hosts(home).write_text("")
    text = refusal(node_of())
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(netlab.hosts[1].folder / "hostkey.pub")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    assert f"the host key of {netlab.hosts[1].ip} is not known: {fingerprint}" in text
    command = text.partition("add it with: ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True)  # what the user would type
    node_of().connect()


def test_a_changed_host_key_is_refused(node_of: Callable[..., SshNode], home: Path, netlab: NetLab) -> None:
    other, ip = netlab.hosts[2], netlab.hosts[1].ip
    key = " ".join((other.folder / "hostkey.pub").read_text().split()[:2])
    known_hosts(home).write_text(f"{ip} {key}\n")
    text = refusal(node_of())
    assert text.startswith(f"the host key of {ip} has CHANGED: known is SHA256:")
    assert f"ssh-keygen -f {known_hosts(home)} -R {ip}" in text


def test_a_certificate_authority_and_damaged_lines_are_passed_over(
    node_of: Callable[..., SshNode], home: Path
) -> None:
    good = known_hosts(home).read_text()
    authority = f"@cert-authority *.example.org {' '.join(good.split()[1:3])}"
    known_hosts(home).write_text(
        f"# mine\n\n{authority}\nbroken ssh-ed25519 AAAAC3Nz\nword\n\xff{good}{good}"
    )
    node_of().connect()


def test_hashed_names_are_known(node_of: Callable[..., SshNode], home: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known_hosts(home))], check=True)
    assert known_hosts(home).read_text().startswith("|1|")
    node_of().connect()


def test_a_revoked_host_key_is_refused_although_it_is_known(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab
) -> None:
    host = netlab.hosts[1]
    key = " ".join((host.folder / "hostkey.pub").read_text().split()[:2])
    known_hosts(home).write_text(f"{known_hosts(home).read_text()}@revoked * {key}\n")
    assert f"the host key of {host.ip} is revoked in known_hosts: SHA256:" in refusal(node_of())


def test_a_key_that_the_node_does_not_know_is_told(node_of: Callable[..., SshNode], home: Path) -> None:
    key = home / ".ssh" / "id_ed25519"
    key.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    text = refusal(node_of())
    assert f"accepts none of our keys (tried: {key}); try `ssh root@" in text


def test_an_encrypted_key_is_used_through_the_agent_alone(
    node_of: Callable[..., SshNode], home: Path
) -> None:
    key = home / ".ssh" / "id_ed25519"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(home / "agent")], stdout=subprocess.DEVNULL)
    try:
        until((home / "agent").exists, what="the agent listens")
        with_agent = os.environ | {"SSH_AUTH_SOCK": str(home / "agent")}
        subprocess.run(["ssh-add", "-q", str(key)], env=with_agent, check=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)], check=True)
        assert "our key is encrypted, and dlperf asks for no passphrase" in refusal(node_of())
        config = home / ".ssh" / "config"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
            node_of().connect()  # IdentitiesOnly: the agent's key is one of those that are named
            key.rename(key.with_name("elsewhere"))
            key.with_suffix(".pub").rename(key.with_name("elsewhere.pub"))
            assert "accepts none of our keys" in refusal(node_of())
            config.write_text(config.read_text().replace("  IdentitiesOnly yes\n", ""))
            node_of().connect()
        configure(home, f"IdentityAgent {home}/agent\n")
        node_of().connect()
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.parametrize(
    ("jump", "hops"), [("node0", (0,)), ("ssh://root@node0:22,node2", (0, 2)), ("next", (2, 0))]
)
@pytest.mark.usefixtures("resolver")
def test_a_node_behind_jump_hosts(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab, jump: str, hops: tuple[int, ...]
) -> None:
    ips = [host.ip for host in netlab.hosts]
    configure(
        home,
        f"Host behind\n  HostName {ips[1]}\n  ProxyJump {jump}\n"
        f"Host next\n  HostName {ips[0]}\n  ProxyJump node2\n",
    )
    node = node_of(name="behind")
    logs = [netlab.hosts[hop].folder / "sshd.log" for hop in hops]
    before = [log.read_text().count("Accepted publickey") for log in logs]
    assert [ips[hop] for hop in hops] == [target.host for target in node.target.jumps]
    node.connect()
    assert node.facts().host == "node1"
    assert [count + 1 for count in before] == [log.read_text().count("Accepted publickey") for log in logs]


def test_include_match_and_tokens_of_the_users_configuration_count(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab
) -> None:
    ip, key = netlab.hosts[1].ip, home / ".ssh" / "id_ed25519"
    key.rename(home / f"key_{ip}_root")
    config = home / ".ssh" / "config"
    config.write_text(f"Include {home}/more\nHost *\n  User nobody\n")
    (home / "more").write_text(
        f"Host a?ias\n  HostName {ip}\n"
        f'Match host {ip} exec "test %n = alias"\n  User root\n'
        f"  IdentityFile {home}/key_%h_%r\n  UserKnownHostsFile {known_hosts(home)}\n"
    )
    node = node_of(name="alias")
    node.connect()
    assert node.facts().host == "node1"


@pytest.mark.usefixtures("resolver")
def test_host_keys_are_known_by_an_alias_in_a_file_elsewhere_and_are_always_verified(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab
) -> None:
    key = " ".join((netlab.hosts[1].folder / "hostkey.pub").read_text().split()[:2])
    elsewhere = home / "elsewhere"
    configure(
        home,
        f"Host node1\n  HostKeyAlias bench-one\n  UserKnownHostsFile {elsewhere}\n"
        "  StrictHostKeyChecking no\n",
    )
    text = refusal(node_of())
    assert text.startswith("the host key of bench-one is not known: SHA256:")
    assert text.endswith(f"echo 'bench-one {key}' >> {elsewhere}")
    elsewhere.write_text(f"!bench-one,* {key}\n")
    assert "the host key of bench-one is not known: " in refusal(node_of())
    elsewhere.write_text(f"other,bench-* {key}\n")
    node_of().connect()
    configure(home, "Host node1\n  UserKnownHostsFile /dev/null\n")
    assert "name a file with UserKnownHostsFile in ssh's configuration and add" in refusal(node_of())


def test_nothing_listens_there(node_of: Callable[..., SshNode], netlab: NetLab) -> None:
    text = refusal(node_of(name="closed", address=netlab.hosts[1].ip, port=2222))
    assert f"@{netlab.hosts[1].ip}:2222 cannot be reached: Connection refused" in text


def test_a_python_that_is_not_there_is_told(node_of: Callable[..., SshNode]) -> None:
    assert "no/such/python does not start dlperf there: " in refusal(node_of(python="/no/such/python"))


def test_what_prints_before_any_command_is_told_at_once(node_of: Callable[..., SshNode]) -> None:
    """A prefix does it here; a login shell's startup files do it in life."""
    before = time.monotonic()
    text = refusal(node_of(prefix=["sh", "-c", 'echo welcome; exec "$@"', "sh"]))
    assert "its login shell or the prefix prints 'welcome' before any command; " in text
    assert time.monotonic() - before < CONNECT_SECONDS


@pytest.mark.parametrize(
    ("command", "words"), [("/no/such/proxy %h", "No such file"), ("head -c 1", "banner")]
)
def test_a_proxy_command_that_does_not_work_is_named(
    node_of: Callable[..., SshNode], home: Path, command: str, words: str
) -> None:
    configure(home, f"Host behind\n  HostName 10.9.9.9\n  ProxyCommand {command}\n")
    text = refusal(node_of(name="behind"))
    expanded = command.replace("%h", "10.9.9.9")
    assert f"cannot be reached through the ProxyCommand {expanded!r}: " in text
    assert words in text


def test_a_proxy_command_carries_the_connection_and_ends_with_it(
    node_of: Callable[..., SshNode], home: Path, netlab: NetLab
) -> None:
    command = f"ssh -F {home}/.ssh/config -W %h:%p node0"
    configure(home, f"Host behind\n  HostName {netlab.hosts[1].ip}\n  ProxyCommand {command}\n")
    node = node_of(name="behind")
    node.connect()
    assert node.facts().host == "node1"
    expanded = f"-W\0{netlab.hosts[1].ip}:22\0node0\0".encode()

    def proxies() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*/cmdline") if expanded in read_bytes(path)]

    assert 1 == len(proxies())
    node.close()
    assert [] == proxies()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"cores": 1000}, "the cluster file says 1000 cores, it has "),
        ({"interface": "ib9"}, "it has no interface ib9 with an IPv4 address"),
    ],
)
def test_a_node_that_is_less_than_the_cluster_file_says_is_set_aside(
    lab: ClusterLab, keys: dict[str, Any], reason: str
) -> None:
    lab.write_cluster(nodes=[{"name": "node0"} | keys, "node1"])
    lab.write()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert f"node0 is set aside: {reason}" in done.stderr
    (result,) = lab.stored()
    assert result.nodes == ("node1",)


def test_a_node_with_fewer_gpus_than_the_cluster_file_says_is_refused(
    node_of: Callable[..., SshNode],
) -> None:
    text = refusal(node_of(device="cuda", devices=8))
    assert text == "the cluster file says 8 GPUs, CUDA shows none"


@pytest.fixture
def hopper(lab: ClusterLab) -> dict[str, str]:
    """Variables of a node that, as no host of the lab has a GPU, has a program that says so."""
    folder = lab.net.folder / f"hopper-{lab.mark}"
    folder.mkdir()
    write_nvidia_smi(folder, FakeGpu(name="NVIDIA H100 80GB HBM3"), FakeGpu(name="NVIDIA H200"))
    return {"PATH": f"{folder}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "1"}


def test_a_node_with_other_gpus_than_the_cluster_file_says_is_refused(
    node_of: Callable[..., SshNode], hopper: dict[str, str]
) -> None:
    keys: dict[str, Any] = {"device": "cuda", "devices": 1, "environment": hopper}
    text = refusal(node_of(**keys, gpu={"name": "Tesla V100", "capability": 7.0}))
    assert text == "the cluster file says GPU Tesla V100, CUDA shows NVIDIA H200"
    node = node_of(**keys, gpu={"name": "H200", "capability": 9.0})
    node.connect()
    assert node.facts().accelerators == ("NVIDIA H200",)


def test_a_build_that_the_gpus_of_a_node_cannot_run_is_not_made_there(
    node_of: Callable[..., SshNode], hopper: dict[str, str]
) -> None:
    node = node_of(device="cuda", devices=1, environment=hopper)
    node.connect()
    spec = load_adapters()["oneflow"].environment("0.9.0", "cuda")
    with pytest.raises(EnvironmentUnavailable) as caught:
        node.environment(spec, python=None)
    assert str(caught.value) == (
        "oneflow 0.9.0 has no code for compute capability 9.0 (NVIDIA H200): "
        "its build for CUDA 11.7 has 6.0 to 8.6; use another framework or GPU"
    )


def test_the_check_says_which_frameworks_the_gpus_of_a_node_cannot_run(
    lab: ClusterLab, hopper: dict[str, str]
) -> None:
    gpu = {"name": "H200", "driver": "580.65.06"}
    node = {"name": "node1", "device": "cuda", "devices": 1, "environment": hopper, "gpu": gpu}
    lab.write_cluster(nodes=[node])
    done = lab.dlperf("cluster", "check", "lab")
    assert done.returncode == 5
    lines = done.stdout.splitlines()
    assert "NVIDIA H200 (81000 MiB free)" in lines[1]
    old = "the cluster file says driver 580.65.06, the node has 550.54.15"
    assert f"bad      node1: GPUs: {old}" in lines
    for framework in ("oneflow", "mxnet"):
        start = f"warning  node1: {framework} on GPUs: {framework} "
        assert any(line.startswith(start) and "9.0 (NVIDIA H200)" in line for line in lines)
    assert not any("pytorch on GPUs" in line for line in lines)  # its build for CUDA 12.6 runs there


def test_a_prefix_stands_before_every_command(node_of: Callable[..., SshNode]) -> None:
    node = node_of(prefix=["env", "--", "NCCL_PREFIXED=it's $HOME"])
    node.connect()
    channel = node.start(["sh", "-c", 'printf %s "$NCCL_PREFIXED"'])
    assert channel.recv(100) == b"it's $HOME"


def test_one_machine_under_two_names_is_refused(lab: ClusterLab, netlab: NetLab) -> None:
    lab.write_cluster(nodes=["node1", {"name": "other", "address": netlab.hosts[1].ip}])
    lab.write()
    done = lab.run()
    assert done.returncode == 2
    place = f"root@{netlab.hosts[1].ip}"
    assert (
        f"dlperf: clusters/lab.yaml: 'node1' and 'other' are the same machine, {place}; remove one\n"
        == done.stderr
    )
