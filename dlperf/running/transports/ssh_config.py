"""What `ssh NAME` would use: the user's own ~/.ssh/config laid under what a cluster file says of a node."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramiko.config import SSHConfig

from dlperf.errors import UserError

if TYPE_CHECKING:
    from dlperf.plan.cluster import ClusterNode

_PORT, _HIGHEST_PORT = 22, 65535
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect and how; `jumps` are passed one after the other."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]  # named for it; none: the usual ones of ~/.ssh
    agent: bool
    known_hosts: tuple[Path, ...]  # the user's own first: that is where a new key belongs
    host_key_name: str | None  # under which the key is known, where that is not the host
    jumps: tuple[Target, ...] = ()
    proxy_command: str | None = None

    def __str__(self) -> str:
        port = "" if self.port == _PORT else f":{self.port}"
        return f"{self.user}@{self.host}{port}"

    @property
    def known_as(self) -> str:
        """The name that stands in known_hosts."""
        name = self.host_key_name or self.host
        return name if self.port == _PORT or self.host_key_name else f"[{name}]:{self.port}"


def read_config() -> SSHConfig:
    """The user's ssh configuration; an empty one where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = Path("~/.ssh/config").expanduser()
    try:
        return SSHConfig.from_path(str(path)) if path.is_file() else SSHConfig()
    except Exception as error:
        # paramiko raises whatever its parser meets: ConfigParseError, UnicodeDecodeError, KeyError
        raise UserError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def target_of(node: ClusterNode, config: SSHConfig) -> Target:
    """The way to a node; what the cluster file says wins over the user's configuration.

    Raises:
        UserError: the configuration gives no port, or jumps that lead back to where they began.
    """
    return _target(node.address, config, user=node.user, port=node.port)


def _target(
    name: str,
    config: SSHConfig,
    *,
    user: str | None,
    port: int | None,
    may_jump: bool = True,
    behind: tuple[str, ...] = (),
) -> Target:
    """`behind` are the hosts that are reached through this one."""
    if name in behind:
        way = " -> ".join([*behind, name])
        raise UserError(f"~/.ssh/config: ProxyJump leads in a circle ({way}); put 'ProxyJump none' for one")
    found: dict[str, Any] = dict(config.lookup(name))
    keys = [Path(file).expanduser() for file in found.get("identityfile", ())]
    own = [
        Path(file).expanduser() for file in str(found.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
    ]
    jump, command = found.get("proxyjump"), found.get("proxycommand")
    return Target(
        host=found["hostname"],
        port=port or _port(found.get("port", str(_PORT)), name),
        user=user or found.get("user") or getpass.getuser(),
        keys=tuple(keys),
        agent=found.get("identitiesonly", "no") != "yes" or not keys,
        known_hosts=(*own, _SYSTEM_KNOWN_HOSTS),
        host_key_name=found.get("hostkeyalias"),
        jumps=(
            _jumps(jump, config, behind=(*behind, name))
            if may_jump and jump and jump.lower() != "none"
            else ()
        ),
        proxy_command=command if may_jump and command and command.lower() != "none" else None,
    )


def _port(text: str, name: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _HIGHEST_PORT:
        raise UserError(f"~/.ssh/config: Port of {name} is {text!r}, which is none")
    return int(text)


def _jumps(text: str, config: SSHConfig, *, behind: tuple[str, ...]) -> tuple[Target, ...]:
    """The hosts of a ProxyJump: `[user@]host[:port]`, the first one to connect to first."""
    targets: list[Target] = []
    for hop in text.split(","):
        user, _, place = hop.strip().rpartition("@")
        name, colon, port = place.rpartition(":")
        if not colon or not port.isdigit():
            name, port = place, ""
        target = _target(
            name,
            config,
            user=user or None,
            port=int(port) if port else None,
            may_jump=not targets,
            behind=behind,
        )
        targets += [*target.jumps, target]
    return tuple(targets)
