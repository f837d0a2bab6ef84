"""Several hosts on one machine: network, mount, pid, uts and ipc namespaces, each with its own sshd.

Needs root, iproute2 and openssh-server. All traffic stays on a bridge inside this machine, on a subnet of
10.77.0.0/16 that nobody uses. Each host has its own /root, /home, /tmp and /root/disk (a small one), and
beside root a user `bench`; the rest of the file system is this machine's, so that the Pythons of the tests
are there.

The hosts die with the thread that made them (PR_SET_PDEATHSIG); links and folders of a lab whose owner was
killed are removed when the next lab is made.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from dlperf.environments.environment import environments_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SSHD = Path("/usr/sbin/sshd")
REPOSITORY = Path(__file__).resolve().parents[2]
DISK_MEGABYTES = 64
SMALL = "small"  # a folder of a lab, and a small file system that all its hosts see
_CPU_GROUPS, _CPU_PERIOD = Path("/sys/fs/cgroup"), 100_000  # microseconds, the kernel's default
_UP_SECONDS = 60.0
_POLL_SECONDS = 0.01
# What hosts see of this machine although it may lie in a folder that each has its own of: this checkout, the
# Pythons and the frameworks' environments.
_SHARED = (
    sys.prefix,
    sys.base_prefix,
    REPOSITORY,
    environments_root(),
    Path.home() / ".pyenv" / "versions",
    Path.home() / ".local" / "share" / "uv",
)
_OWN_FOLDERS = ("/root", "/home", "/tmp", "/var/tmp")  # noqa: S108  each host has its own
USER, USER_ID = "bench", 4242  # of every host, with the key of root
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tool(*arguments: object, check: bool = True) -> str:
    """Run a tool of this machine and give what it prints; RuntimeError with its words where it fails."""
    words = [str(argument) for argument in arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def why_not() -> str | None:
    """Why no lab can be made here; None where one can."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    missing = [
        name for name in ("ip", "nsenter", "unshare", "setpriv", "ssh-keygen") if not shutil.which(name)
    ]
    if missing or not SSHD.exists():
        return f"{', '.join(missing) or SSHD} is missing (tools/packages.sh installs it)"
    probe = f"nlp{secrets.token_hex(3)}"
    try:
        tool("ip", "netns", "add", probe)
        tool("ip", "-n", probe, "link", "add", "b0", "type", "bridge")
        tool("ip", "-n", probe, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    except RuntimeError as error:
        return f"namespaces, bridges or veth pairs cannot be made: {error}"
    finally:
        tool("ip", "netns", "del", probe, check=False)
    return None


@dataclass
class Host:
    """One host; `link` and `poweroff` do to it what happens to real ones."""

    name: str
    ip: str
    netns: str
    veth: str  # this machine's end of its cable
    folder: Path
    kept: tuple[Path, ...]
    cpu: int | None = None  # the only one that it may use; None: all
    process: subprocess.Popen[bytes] | None = None
    init: int = 0  # pid of the host's process 1, as this machine counts
    more: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def boot(self) -> None:
        """Start it; its sshd answers when this returns."""
        lines = [
            "set -e",
            f"hostname {self.name}",
            "mount --make-rprivate /",
            f"mount --bind {self.folder}/hosts /etc/hosts",
            f"mount --bind {self.folder}/passwd /etc/passwd",
            "mkdir -p /run/sshd",
            f"mount -t tmpfs -o size={DISK_MEGABYTES}m disk {self.folder}/root/disk",
        ]
        for hidden in _OWN_FOLDERS:
            own = self.folder / hidden.strip("/").replace("/", "-")
            for path in self.kept:
                if path.is_relative_to(hidden):
                    inside = own / path.relative_to(hidden)
                    inside.mkdir(parents=True, exist_ok=True)
                    lines.append(f"mount --bind {path} {inside}")
            lines.append(f"mount --rbind {own} {hidden}")
        # Process 1 waits for whatever is left to it; an sshd can be killed and started again below it.
        lines += [self._sshd_command() + " &", "while :; do sleep 1 & wait $!; done"]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = started_with_us(
                f"{self._bound()}nsenter --net=/run/netns/{self.netns} "
                "unshare --mount --uts --ipc --pid --fork --kill-child=KILL --mount-proc",
                "/bin/sh",
                "-c",
                "\n".join(lines),
                errors=log,
            )

    def _bound(self) -> str:
        return "" if self.cpu is None else f"taskset -c {self.cpu} "

    def _sshd_command(self) -> str:
        return f"{SSHD} -D -e -f {self.folder}/sshd_config"

    def until_up(self) -> None:
        """Wait until sshd answers; RuntimeError with its log where it does not."""
        assert self.process is not None
        deadline = time.monotonic() + _UP_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {(self.folder / 'sshd.log').read_text()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.init = int(children.split()[0])

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.ip, 22), timeout=0.5) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    def run(self, *command: object, check: bool = True) -> str:
        """Run a command on the host's console, without ssh."""
        return tool("nsenter", "-t", self.init, "-n", "-m", "-u", "-i", "-p", *command, check=check)

    def processes(self, text: str) -> list[int]:
        """Pids, as the host counts, of processes whose command line or environment holds `text`."""
        found = []
        for folder in self.path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
                    words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                    if text.encode() in words and state not in (b"Z", b"X"):
                        found.append(int(folder.name))
        return found

    def path(self, path: str) -> Path:
        """A path of the host as this machine reaches it."""
        return Path(f"/proc/{self.init}/root{path}")

    def link(self, *, up: bool) -> None:
        """Plug or pull its cable."""
        tool("ip", "link", "set", self.veth, "up" if up else "down")

    def poweroff(self) -> None:
        """Pull the plug: no packet says good-bye, every process is gone."""
        self.link(up=False)
        self.kill()

    def power_on(self) -> None:
        """The cable too."""
        self.link(up=True)
        self.boot()
        self.until_up()

    def kill_sshd(self) -> None:
        """Kill the daemon and every session of it."""
        self.run("pkill", "-9", "-x", "sshd")

    def start_sshd(self) -> None:
        """Start the daemon again, on its console."""
        command = self._sshd_command().split()
        enter = f"{self._bound()}nsenter -t {self.init} -n -m -u -i -p"
        with (self.folder / "sshd.log").open("ab") as log:
            self.more.append(started_with_us(enter, *command, errors=log))
        self.until_up()

    def shape(self, rate: str | None) -> None:
        """Limit both directions of its cable, such as to `100mbit`; None lifts the limit."""
        for tc, device in ((("tc", "-n", self.netns), "eth0"), (("tc",), self.veth)):
            tool(*tc, "qdisc", "del", "dev", device, "root", check=False)
            if rate:
                limit = ("tbf", "rate", rate, "burst", "256kb", "latency", "20ms")
                tool(*tc, "qdisc", "add", "dev", device, "root", *limit)

    def shape_to(self, other: Host, rate: str) -> None:
        """Limit what it sends to one other host; `shape(None)` lifts it."""
        tc = ("tc", "-n", self.netns)
        eth0 = ("dev", "eth0")
        tool(*tc, "qdisc", "add", *eth0, "root", "handle", "1:", "htb")
        tool(*tc, "class", "add", *eth0, "parent", "1:", "classid", "1:1", "htb", "rate", rate)
        match = ("u32", "match", "ip", "dst", f"{other.ip}/32", "flowid", "1:1")
        tool(*tc, "filter", "add", *eth0, "parent", "1:", "protocol", "ip", "prio", "1", *match)

    @contextmanager
    def with_cpu_time(self, share: float | None = None) -> Iterator[None]:
        """Allow all its processes together `share` of the time of one CPU (None: all that there is).

        They go before other work of this machine, so that the host has the time that it may have. By a
        control group, version 1 or 2.
        """
        quota = int((share or 0) * _CPU_PERIOD)
        if (_CPU_GROUPS / "cpu").is_dir():
            group = _CPU_GROUPS / "cpu" / self.netns
            limits = {"cpu.shares": "200000", "cpu.cfs_quota_us": str(quota or -1)}
        else:
            group = _CPU_GROUPS / self.netns
            limits = {"cpu.weight": "10000", "cpu.max": f"{quota or 'max'} {_CPU_PERIOD}"}
            (_CPU_GROUPS / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        try:
            for name, content in limits.items():
                (group / name).write_text(content)
            self._move_to(group)
            yield
        finally:
            deadline = time.monotonic() + _UP_SECONDS
            while group.is_dir():  # a process may just have been started, or be about to end
                self._move_to(group.parent)
                with suppress(OSError):
                    group.rmdir()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{group}: processes stay in it")
                time.sleep(_POLL_SECONDS)

    def _move_to(self, group: Path) -> None:
        """Every process of the host; those that they start later are in their parents' group."""
        namespace = Path(f"/proc/{self.init}/ns/pid").readlink()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError):
                    if (process / "ns/pid").readlink() == namespace:
                        (group / "cgroup.procs").write_text(process.name)

    def kill(self) -> None:
        """End every process of the host."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.init or self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        for process in self.more:
            process.kill()
            process.wait(10)
        self.more.clear()
        self.process, self.init = None, 0


@dataclass
class NetLab:
    """`hosts`, a key that all of them accept, and a home folder for a user of them on this machine.

    `cpus` gives each host one CPU to itself.
    """

    count: int
    cpus: tuple[int, ...] = ()
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="netlab-", dir="/run")))
    hosts: list[Host] = field(default_factory=list)
    subnet: str = ""

    def __post_init__(self) -> None:
        self.id = secrets.token_hex(3)
        self.bridge = f"nlb{self.id}"
        self.home = self.folder / "home"  # with .ssh/id_ed25519, known_hosts and config

    def __enter__(self) -> Self:
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._down()

    @property
    def key(self) -> Path:
        """The private key."""
        return self.home / ".ssh" / "id_ed25519"

    def _up(self) -> None:
        remove_orphaned_labs()
        environments_root().mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # sshd wants nobody else to write above its keys
        (self.folder / "owner").write_text(f"{os.getpid()} {_start_time(os.getpid())} {self.id}")
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key, "-C", "netlab")
        tool("ip", "link", "add", self.bridge, "type", "bridge")
        (self.folder / SMALL).mkdir()
        tool("mount", "-t", "tmpfs", "-o", "size=16m", "small", self.folder / SMALL)
        self.subnet = _free_subnet()
        tool("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        tool("ip", "link", "set", self.bridge, "up")
        self.hosts = [self._make_host(number) for number in range(self.count)]
        self._write_user_files()
        for host in self.hosts:
            host.boot()
        for host in self.hosts:
            host.until_up()

    def _make_host(self, number: int) -> Host:
        name, folder = f"node{number}", self.folder / f"node{number}"
        for own, mode in (("root/.ssh", 0o700), ("root/disk", 0o755), ("tmp", 0o1777), ("var-tmp", 0o1777)):
            (folder / own).mkdir(parents=True)
            (folder / own).chmod(mode)
        (folder / "root").chmod(0o711)  # Pythons below it are for every user
        shutil.copy(f"{self.key}.pub", folder / "root/.ssh/authorized_keys")
        shutil.copytree(folder / "root/.ssh", folder / "home" / USER / ".ssh")
        tool("chown", "-R", f"{USER_ID}:{USER_ID}", folder / "home" / USER)
        known = Path("/etc/passwd").read_text()
        (folder / "passwd").write_text(f"{known}{USER}:*:{USER_ID}:{USER_ID}::/home/{USER}:/bin/sh\n")
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "hostkey", "-C", name)
        kept = {Path(os.path.realpath(path)) for path in _SHARED if Path(path).exists()}
        host = Host(
            name=name,
            ip=f"{self.subnet}.{11 + number}",
            netns=f"nl{self.id}n{number}",
            veth=f"nl{self.id}v{number}",
            folder=folder,
            kept=tuple(sorted(kept)),
            cpu=self.cpus[number] if self.cpus else None,
        )
        (folder / "sshd_config").write_text(
            f"ListenAddress {host.ip}\nHostKey {folder}/hostkey\nPidFile none\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n"
            "PermitRootLogin prohibit-password\nAuthorizedKeysFile %h/.ssh/authorized_keys\n"
        )
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{self.subnet}.{11 + other} node{other}\n" for other in range(self.count))
        )
        tool("ip", "netns", "add", host.netns)
        tool("ip", "link", "add", host.veth, "type", "veth", "peer", "name", "eth0", "netns", host.netns)
        tool("ip", "link", "set", host.veth, "master", self.bridge, "up")
        tool("ip", "-n", host.netns, "addr", "add", f"{host.ip}/24", "dev", "eth0")
        tool("ip", "-n", host.netns, "link", "set", "lo", "up")
        tool("ip", "-n", host.netns, "link", "set", "eth0", "up")
        return host

    def _write_user_files(self) -> None:
        """known_hosts and config as a user of the hosts has them."""
        ssh = self.home / ".ssh"
        keys = [(host.folder / "hostkey.pub").read_text().split()[:2] for host in self.hosts]
        lines = [f"{host.ip} {' '.join(key)}\n" for host, key in zip(self.hosts, keys, strict=True)]
        (ssh / "known_hosts").write_text("".join(lines))
        (ssh / "config").write_text(
            "".join(f"Host {host.name}\n  HostName {host.ip}\n" for host in self.hosts)
            + f"Host *\n  User root\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {ssh}/known_hosts\n"
        )

    def _down(self) -> None:
        for host in self.hosts:
            host.kill()
        _remove_lab(self.folder, self.id)


def started_with_us(
    enter: str,
    *command: str,
    errors: BinaryIO | int = subprocess.DEVNULL,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a host, or here; the kernel kills it when the thread that calls this ends."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *enter.split(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **(variables or {})},
    )


def remove_orphaned_labs() -> None:
    """Remove what is left of labs whose owner is gone."""
    for folder in Path("/run").glob("netlab-*"):
        with suppress(OSError, ValueError):
            pid, started, lab = (folder / "owner").read_text().split()
            if _start_time(int(pid)) != started:
                _remove_lab(folder, lab)


def _remove_lab(folder: Path, lab: str) -> None:
    for line in tool("ip", "-o", "link", check=False).splitlines():
        device = line.split(": ")[1].partition("@")[0]
        if device.startswith((f"nl{lab}v", f"nlb{lab}")):
            tool("ip", "link", "del", device, check=False)
    for line in tool("ip", "netns", "list", check=False).splitlines():
        if line.startswith(f"nl{lab}n"):
            tool("ip", "netns", "del", line.split()[0], check=False)
    for group in (*_CPU_GROUPS.glob(f"nl{lab}n*"), *_CPU_GROUPS.glob(f"cpu/nl{lab}n*")):
        with suppress(OSError):
            group.rmdir()
    tool("umount", "-l", folder / SMALL, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _start_time(pid: int) -> str | None:
    """When a process was started, in ticks since boot: with its pid it names one process for ever."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _free_subnet() -> str:
    taken = tool("ip", "-o", "-4", "addr")
    free = [f"10.77.{number}" for number in range(1, 255) if f" 10.77.{number}." not in taken]
    return secrets.choice(free)
