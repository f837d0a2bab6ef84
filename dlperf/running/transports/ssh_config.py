"""How to reach a host: the cluster file's settings for the node, then the user's ssh configuration.

If OpenSSH's client is installed, `ssh -G` resolves the configuration. If not, paramiko's parser reads the
user's file, and a line that it cannot follow is an error.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramiko.config import SSHConfig

from dlperf.errors import UserError
from dlperf.plan.cluster import ClusterNode

# A command of `Match exec` may hang.
_SSH_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_PORT, _HIGHEST_PORT = 22, 65535
_HOP = re.compile(r"(?:ssh://)?(?:(?P<user>.*)@)?(?P<host>\[[^]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?/?")

# What follows is for a machine without OpenSSH's client.
_USUAL_KEYS = tuple(f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519"))
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
_LINE = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.+)")
_CRITERIA, _CRITERIA_WITH_VALUE = ("all", "canonical", "final"), ("host", "originalhost", "user", "localuser")
_REMEDY = (
    "install OpenSSH's client, whose `ssh -G` follows everything, or name a simpler file with ssh_config in "
    "the cluster file"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect and how."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]  # key files to try, in this order; they need not exist
    agent: Path | None  # the socket of ssh-agent; None: no agent is asked
    only_keys: bool  # whether only those of the agent's keys are used that `keys` names (IdentitiesOnly)
    known_hosts: tuple[Path, ...]  # files with host keys, the user's own first
    new_host_keys: Path | None  # the file for a new host key; None: the user has switched it off
    host_key_alias: str | None
    connect_seconds: float  # limit for each step of connecting
    jumps: tuple[Target, ...] = ()  # hosts to go through, in this order
    proxy_command: str | None = None

    def __str__(self) -> str:
        port = "" if self.port == _PORT else f":{self.port}"
        return f"{self.user}@{self.host}{port}"

    @property
    def known_as(self) -> str:
        """The name in known_hosts."""
        name = self.host_key_alias or self.host
        return name if self.port == _PORT or self.host_key_alias else f"[{name}]:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A host as the user named it; user and port of the cluster file or of a ProxyJump win."""

    name: str
    user: str | None
    port: int | None
    config: Path | None  # in place of the user's and the system's files


def target_of(node: ClusterNode) -> Target:
    """How to reach a node; UserError if the ssh configuration cannot be followed or leads nowhere."""
    request = _Request(name=node.address, user=node.user, port=node.port, config=node.ssh_config_file)
    return _target(request, through=True, behind=())


def _target(request: _Request, *, through: bool, behind: tuple[str, ...]) -> Target:
    """Resolve a host; `behind` are the hosts that are reached through it.

    Without `through`, its own ProxyJump and ProxyCommand do not count: the hop before it replaces them.
    """
    where = f"ssh configuration of {request.name}"
    if request.name in behind:
        way = " -> ".join([*behind, request.name])
        raise UserError(f"{where}: ProxyJump leads in a circle ({way}); put 'ProxyJump none' for one of them")
    ssh = shutil.which("ssh")
    settings = _from_parser(request) if ssh is None else _from_ssh(ssh, request)
    home = Path.home() if ssh is None else Path(pwd.getpwuid(os.getuid()).pw_dir)

    def value(key: str) -> str | None:
        text = settings.get(key, ["none"])[0]
        return None if text.lower() == "none" else text

    host, port = value("hostname") or request.name, value("port") or str(_PORT)
    user = value("user") or getpass.getuser()
    if not port.isdecimal() or not 0 < int(port) <= _HIGHEST_PORT:
        raise UserError(f"{where}: Port {port!r} is not a number from 1 to {_HIGHEST_PORT}")
    tokens = {
        "%": "%",
        "d": str(home),
        "h": host,
        "i": str(os.getuid()),
        "k": value("hostkeyalias") or request.name,
        "L": socket.gethostname().partition(".")[0],
        "l": socket.gethostname(),
        "n": request.name,
        "p": port,
        "r": user,
        "u": getpass.getuser(),
    }

    def expanded(text: str) -> str:
        def token(match: re.Match[str]) -> str:
            if match[1] not in tokens:
                raise UserError(
                    f"{where}: dlperf does not know the token {match[0]} in {text!r}; write it out"
                )
            return tokens[match[1]]

        return re.sub(r"%(.)", token, text)

    def paths(texts: Iterable[str]) -> tuple[Path, ...]:
        """The files, expanded, without the values that switch something off."""
        given = [re.sub(r"^~(?=/)", str(home), expanded(text)) for text in texts]
        named = [text for text in given if text not in ("none", "/dev/null")]
        return tuple(Path(os.path.expandvars(text)).expanduser() for text in named)

    own = paths((value("userknownhostsfile") or "").split())
    jump, command = (value("proxyjump"), value("proxycommand")) if through else (None, None)
    if command and value("proxyusefdpass") == "yes":
        raise UserError(f"{where}: dlperf does not know ProxyUseFdpass; use a ProxyCommand without it")
    wait = value("connecttimeout") or ""
    return Target(
        host=host,
        port=int(port),
        user=user,
        keys=paths(settings.get("identityfile", ())),
        agent=_agent(settings.get("identityagent", ["SSH_AUTH_SOCK"])[0], paths),
        only_keys=value("identitiesonly") == "yes",
        known_hosts=(*own, *paths((value("globalknownhostsfile") or "").split())),
        new_host_keys=own[0] if own else None,
        host_key_alias=value("hostkeyalias"),
        connect_seconds=float(wait) if wait.isdecimal() and int(wait) else _CONNECT_SECONDS,
        jumps=_jumps(expanded(jump), request, where=where, behind=behind) if jump else (),
        proxy_command=expanded(command) if command else None,
    )


def _agent(text: str, paths: Callable[[Iterable[str]], tuple[Path, ...]]) -> Path | None:
    """The agent's socket: a path, `none`, or the name of a variable."""
    if text == "SSH_AUTH_SOCK" or text.startswith("$"):
        text = os.environ.get(text.strip("${}"), "")
    return next(iter(paths([text] if text else [])), None)


def _jumps(text: str, request: _Request, *, where: str, behind: tuple[str, ...]) -> tuple[Target, ...]:
    """The hosts of a ProxyJump, `[user@]host[:port]` or `ssh://...`; the first may have its own jumps."""
    targets: list[Target] = []
    for hop in map(str.strip, text.split(",")):
        match = _HOP.fullmatch(hop)
        if match is None or match["host"].startswith("-"):
            raise UserError(f"{where}: ProxyJump: {hop!r} is not a host; write [user@]host[:port]")
        target = _target(
            _Request(
                name=match["host"].strip("[]"),
                user=match["user"],
                port=int(match["port"]) if match["port"] else None,
                config=request.config,
            ),
            through=not targets,
            behind=(*behind, request.name),
        )
        targets += [*target.jumps, target]
    return tuple(targets)


def _from_ssh(ssh: str, request: _Request) -> dict[str, list[str]]:
    """What `ssh -G` says: keys in lower case, each with its values."""
    options = (("-F", request.config), ("-l", request.user), ("-p", request.port))
    words = [word for option, value in options if value is not None for word in (option, str(value))]
    shown = shlex.join(["ssh", "-G", *words, request.name])
    # In a session of its own: what a `Match exec` has started ends with it.
    process = subprocess.Popen(
        [ssh, "-G", "-T", *words, "--", request.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=_SSH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"`{shown}` did not end within {_SSH_SECONDS:g} s; look for a `Match exec` in ssh's "
            "configuration whose command hangs"
        ) from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    settings: dict[str, list[str]] = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        settings.setdefault(key, []).append(value)
    if process.returncode != 0 or "hostname" not in settings:
        reason = "; ".join(filter(None, errors.splitlines())) or f"no host name; is {ssh} OpenSSH's?"
        raise UserError(f"`{shown}` fails: {reason}")
    return settings


def _from_parser(request: _Request) -> dict[str, list[str]]:
    """What paramiko's parser makes of the user's file, with the defaults of OpenSSH."""
    path = request.config or Path("~/.ssh/config").expanduser()
    given = [f"{key} {value}\n" for key, value in (("User", request.user), ("Port", request.port)) if value]
    try:
        text = path.read_text(encoding="utf-8") if request.config or path.is_file() else ""
        refused = [
            f"{path}:{number}: {problem}; {_REMEDY}"
            for number, line in enumerate(text.splitlines(), start=1)
            if (problem := _beyond_parser(line.strip()))
        ]
        text = "".join(given) + text
        # Lists of strings for keys that may stand there twice, strings for the others.
        found: dict[str, Any] = {} if refused else dict(SSHConfig.from_text(text).lookup(request.name))
    except Exception as error:
        # The parser raises whatever it meets: ConfigParseError, KeyError, ValueError.
        raise UserError(f"{path}: cannot be read: {type(error).__name__}: {error}; {_REMEDY}") from error
    if refused:
        raise UserError(refused[0])
    defaults = {
        "identityfile": [*_USUAL_KEYS],
        "userknownhostsfile": ["~/.ssh/known_hosts"],
        "globalknownhostsfile": [_SYSTEM_KNOWN_HOSTS],
    }
    return defaults | {
        key: value if isinstance(value, list) else ["none" if value is None else value]
        for key, value in found.items()
    }


def _beyond_parser(line: str) -> str | None:
    """Why paramiko's parser cannot follow a line of a configuration; None if it can."""
    if not line or line.startswith("#"):
        return None
    match = _LINE.match(line)
    if match is None:
        return f"{line!r} is not a keyword with a value"
    keyword = match[1].lower()
    if keyword == "include":
        return "without `ssh` dlperf does not follow Include"
    words = shlex.split(match[2]) if keyword == "match" else []
    while words:
        criterion = words.pop(0).removeprefix("!")
        if criterion in _CRITERIA_WITH_VALUE and words:
            words.pop(0)
        elif criterion not in _CRITERIA:
            return f"without `ssh` dlperf does not follow `Match {criterion}`"
    return None
