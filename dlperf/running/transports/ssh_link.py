"""A verified connection to a host with paramiko: host keys, jump hosts, retries, and errors in words."""

from __future__ import annotations

import logging
import shlex
import socket
import time
from typing import TYPE_CHECKING, Self

import paramiko

from dlperf.running.transports.ssh_known_hosts import take_known_hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paramiko.channel import Channel

    from dlperf.running.transports.ssh_config import Target

# sshd drops connections at random while many others are being made; a node may also just be booting.
_PAUSES_SECONDS = (0.5, 1.0, 2.0)
_CONNECT_SECONDS = 10.0
_CHANNEL_SECONDS = 20.0

# It reports what it raises as well; the errors here say it once, in words.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class LinkError(Exception):
    """There is no connection; the text says why. `hopeless`: trying again changes nothing."""

    def __init__(self, text: str, *, hopeless: bool = False) -> None:
        self.hopeless = hopeless
        super().__init__(text)


class _UnknownHostKey(Exception):
    def __init__(self, key: paramiko.PKey, *, revoked: bool) -> None:
        self.key, self.revoked = key, revoked
        super().__init__()


class _Refuse(paramiko.MissingHostKeyPolicy):
    """Strict: a host without a known key is never trusted."""

    def __init__(self, revoked: frozenset[str]) -> None:
        self._revoked = revoked

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Keep the key for the message."""
        del client, hostname
        raise _UnknownHostKey(key, revoked=key.get_base64() in self._revoked)


class Link:
    """One connection, with those to its jump hosts; any number of commands at once on it."""

    def __init__(self, clients: Sequence[paramiko.SSHClient]) -> None:
        self._clients = clients

    @classmethod
    def connect(cls, target: Target) -> Self:
        """Connect, again some times where that may help.

        Raises:
            LinkError: it cannot be reached, its key is not known or has changed, or it lets us not in.
        """
        pauses = iter(_PAUSES_SECONDS)
        while True:
            try:
                return cls(_clients(target))
            except LinkError as error:
                pause = next(pauses, None)
                if error.hopeless or pause is None:
                    raise
            time.sleep(pause)

    @property
    def is_up(self) -> bool:
        """Whether it has not been found broken."""
        transport = self._clients[-1].get_transport()
        return transport is not None and transport.is_active()

    def start(self, argv: Sequence[str]) -> Channel:
        """Start a command; its standard streams are the channel. Every word is quoted for the login shell.

        Raises:
            LinkError: the connection is broken, or sshd starts no more commands.
        """
        transport = self._clients[-1].get_transport()
        if transport is None:
            raise LinkError("the connection is closed")
        try:
            channel = transport.open_session(timeout=_CHANNEL_SECONDS)
            channel.exec_command(f"exec {shlex.join(argv)}")
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkError(f"no command can be started: {_words(error)}") from error
        return channel

    def close(self) -> None:
        """Close it; whatever it still carries is cut off."""
        for client in reversed(self._clients):
            client.close()


def _clients(target: Target) -> list[paramiko.SSHClient]:
    clients: list[paramiko.SSHClient] = []
    try:
        for hop in (*target.jumps, target):
            clients.append(_client(hop, through=clients[-1] if clients else None))
    except BaseException:
        for client in reversed(clients):
            client.close()
        raise
    return clients


def _client(target: Target, *, through: paramiko.SSHClient | None) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    revoked = take_known_hosts(client.get_host_keys(), target.known_hosts)
    client.set_missing_host_key_policy(_Refuse(revoked))
    try:
        client.connect(
            target.host_key_name or target.host,
            port=_port_for_key(target),
            username=target.user,
            key_filename=[str(key) for key in target.keys if key.is_file()],  # type: ignore[arg-type]
            allow_agent=target.agent,
            look_for_keys=not target.keys,
            sock=_socket(target, through),
            timeout=_CONNECT_SECONDS,
            banner_timeout=_CONNECT_SECONDS,
            auth_timeout=2 * _CONNECT_SECONDS,
        )
    except (paramiko.SSHException, _UnknownHostKey, OSError, EOFError, ValueError) as error:
        client.close()
        raise _link_error(target, error) from error
    return client


def _port_for_key(target: Target) -> int:
    """With a HostKeyAlias the key is known by that name alone, whatever the port."""
    return 22 if target.host_key_name else target.port


def _socket(
    target: Target, through: paramiko.SSHClient | None
) -> socket.socket | Channel | paramiko.ProxyCommand:
    if through is not None:
        transport = through.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection to the jump host is closed")
        return transport.open_channel(
            "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=_CONNECT_SECONDS
        )
    if target.proxy_command is not None:
        return paramiko.ProxyCommand(target.proxy_command)
    made = socket.create_connection((target.host, target.port), timeout=_CONNECT_SECONDS)
    # Requests and leases are a few bytes; without it each waits 40 ms for an acknowledgement.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _link_error(target: Target, error: Exception) -> LinkError:
    if isinstance(error, _UnknownHostKey) and error.revoked:
        return LinkError(
            f"the host key of {target.known_as} is revoked in known_hosts: {error.key.fingerprint}; the node "
            "needs a new one",
            hopeless=True,
        )
    if isinstance(error, _UnknownHostKey):
        line = f"{target.known_as} {error.key.get_name()} {error.key.get_base64()}"
        return LinkError(
            f"the host key of {target.known_as} is not known: {error.key.fingerprint}; if that is what "
            "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` (or another key's) says there, add it with: "
            f"echo {shlex.quote(line)} >> {target.known_hosts[0]}",
            hopeless=True,
        )
    if isinstance(error, paramiko.BadHostKeyException):
        return LinkError(
            f"the host key of {target.known_as} has CHANGED: known is {error.expected_key.fingerprint}, "
            f"it shows {error.key.fingerprint}; somebody may be in between. If the change is rightful: "
            f"ssh-keygen -f {target.known_hosts[0]} -R {shlex.quote(target.known_as)}",
            hopeless=True,
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        return LinkError(
            f"{target}: our key is encrypted, and dlperf asks for no passphrase; run ssh-add",
            hopeless=True,
        )
    if isinstance(error, paramiko.AuthenticationException):
        tried = [str(key) for key in target.keys] or ["the usual keys of ~/.ssh"]
        more = ["ssh-agent's"] if target.agent else []
        return LinkError(
            f"{target} accepts none of our keys (tried: {', '.join([*tried, *more])}); "
            f"try `ssh {shlex.quote(str(target).partition(':')[0])}`, or add one with ssh-copy-id",
            hopeless=True,
        )
    way = f" through the ProxyCommand {target.proxy_command!r}" if target.proxy_command else ""
    # Who waited for so long once need not do so again.
    hopeless = isinstance(error, TimeoutError | ValueError)
    return LinkError(f"{target} cannot be reached{way}: {_words(error)}", hopeless=hopeless)


def _words(error: Exception) -> str:
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return "nothing answers on that port"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or "the connection was closed"
