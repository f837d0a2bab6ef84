"""A verified connection to a host with paramiko: host keys, user keys, jump hosts, retries, messages."""

from __future__ import annotations

import base64
import logging
import os
import select
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentSSH
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey, SourceResult
from paramiko.pkey import UnknownKeyType

from dlperf.running.transports.session import LinkError
from dlperf.running.transports.ssh_config import Target

if TYPE_CHECKING:
    from paramiko.channel import Channel

# sshd drops connections at random while many others are being made; a node may also just be booting.
_PAUSES_SECONDS = (0.5, 1.0, 2.0)
_CHANNEL_SECONDS = 20.0

# It also logs what it raises.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class Link:
    """A connection, with those to its jump hosts, for any number of commands at once.

    An sshd allows only so many commands per connection (MaxSessions); for more, there are more connections.
    """

    def __init__(self, target: Target) -> None:
        """Connect, with some more attempts if that may help; LinkError if it fails."""
        self._target, self._clients = target, list[paramiko.SSHClient]()
        self._opened, self._starting, self._closing = ExitStack(), threading.Lock(), threading.Lock()
        self._connect()

    def _connect(self) -> paramiko.SSHClient:
        """Add a connection."""
        pauses = iter(_PAUSES_SECONDS)
        while True:
            try:
                with ExitStack() as opened:
                    jump = None
                    for hop in self._target.jumps:
                        jump = _client(hop, through=jump, opened=opened)
                    client = _client(self._target, through=jump, opened=opened)
                    self._opened.push(opened.pop_all())
            except LinkError as error:
                pause = next(pauses, None)
                if error.hopeless or pause is None:
                    raise
                time.sleep(pause)
            else:
                self._clients.append(client)
                return client

    @property
    def is_up(self) -> bool:
        """Whether its first connection has not been found broken."""
        transport = self._clients[0].get_transport()
        return transport is not None and transport.is_active()

    def start(self, argv: Sequence[str]) -> Channel:
        """Start a command, each word quoted for the login shell; the channel is its standard streams."""
        try:
            with self._starting:
                channel = self._session()
            channel.exec_command(f"exec {shlex.join(argv)}")
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkError(f"no command can be started: {_describe(error)}") from error
        return channel

    def _session(self) -> Channel:
        for client in self._clients:
            with suppress(paramiko.ChannelException):  # it has as many as its sshd allows
                return _transport(client).open_session(timeout=_CHANNEL_SECONDS)
        return _transport(self._connect()).open_session(timeout=_CHANNEL_SECONDS)

    def close(self) -> None:
        """Close it and whatever it carries."""
        with self._closing:
            self._opened.close()


def _transport(client: paramiko.SSHClient) -> paramiko.Transport:
    transport = client.get_transport()
    if transport is None:
        raise paramiko.SSHException("the connection is closed")
    return transport


def _client(target: Target, *, through: paramiko.SSHClient | None, opened: ExitStack) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    keys, revoked = _host_keys(target)
    for kind, key in keys.items():
        client.get_host_keys().add(target.known_as, kind, key)
    client.set_missing_host_key_policy(_Refuse(revoked))
    try:
        opened.callback(client.close)
        client.connect(
            target.host_key_alias or target.host,
            # With a HostKeyAlias the key is known by that name alone, whatever the port.
            port=22 if target.host_key_alias else target.port,
            auth_strategy=_OurKeys(target),
            sock=opened.enter_context(closing(_socket(target, through))),
            timeout=target.connect_seconds,
            banner_timeout=target.connect_seconds,
            auth_timeout=2 * target.connect_seconds,
        )
    except (paramiko.SSHException, _UnknownHostKey, OSError, EOFError, ValueError) as error:
        raise _link_error(target, error) from error
    return client


def _socket(target: Target, through: paramiko.SSHClient | None) -> socket.socket | Channel | _Proxy:
    if through is not None:
        return _transport(through).open_channel(
            "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=target.connect_seconds
        )
    if target.proxy_command is not None:
        return _Proxy(target.proxy_command)
    connected = socket.create_connection((target.host, target.port), timeout=target.connect_seconds)
    # Requests and leases are a few bytes; without it each waits 40 ms for an acknowledgement.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class _Proxy(paramiko.ProxyCommand):
    """A ProxyCommand; paramiko's own does not notice its end and leaves its process."""

    def recv(self, size: int) -> bytes:
        """Read at most `size` bytes; b"" when the command has ended."""
        output = self.process.stdout.fileno()  # type: ignore[union-attr]
        if not select.select([output], [], [], self.timeout)[0]:
            raise TimeoutError
        return os.read(output, size)

    def close(self) -> None:
        """End the command, and wait for that."""
        with self.process as process:
            process.kill()


class _UnknownHostKey(Exception):
    def __init__(self, key: paramiko.PKey, *, revoked: bool) -> None:
        self.key, self.revoked = key, revoked


class _Refuse(paramiko.MissingHostKeyPolicy):
    """A host whose key is not known is never trusted, whatever StrictHostKeyChecking says."""

    def __init__(self, revoked: set[str]) -> None:
        self._revoked = revoked

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Keep the key for the message."""
        del client, hostname
        raise _UnknownHostKey(key, revoked=key.get_base64() in self._revoked)


def _host_keys(target: Target) -> tuple[dict[str, paramiko.PKey], set[str]]:
    """The target's keys in the known_hosts files, by type (the first counts), and all revoked ones in base64.

    paramiko's `HostKeys.load` knows neither patterns nor markers and stops at a damaged line. Certificate
    authorities are not trusted, as paramiko knows no host certificates.
    """
    keys: list[paramiko.PKey] = []
    revoked = set()
    for path in target.known_hosts:
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                words = line.split()
                marker = words.pop(0) if words and words[0].startswith(("@", "#")) else ""
                with suppress(IndexError, ValueError, paramiko.SSHException, UnknownKeyType):
                    key = paramiko.PKey.from_type_string(words[1], base64.b64decode(words[2]))
                    if marker == "@revoked":
                        revoked.add(key.get_base64())
                    elif not marker and _is_named(target.known_as, words[0].split(",")):
                        keys.append(key)
    good = [key for key in keys if key.get_base64() not in revoked]
    return {key.get_name(): key for key in reversed(good)}, revoked


def _is_named(host: str, patterns: Sequence[str]) -> bool:
    """Whether the patterns of a line of known_hosts include a host."""
    named = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            with suppress(ValueError, AssertionError, IndexError):  # a damaged one
                named = named or paramiko.HostKeys.hash_host(host, pattern) == pattern
        elif fnmatchcase(host.lower(), pattern.removeprefix("!").lower().replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            named = True
    return named


class _Agent(AgentSSH):
    """The agent at a socket; paramiko's own class knows only SSH_AUTH_SOCK."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
            self._connect(self._socket)  # type: ignore[attr-defined]
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


class _OurKeys(AuthStrategy):
    """Keys in the order of ssh: the agent's keys that are named, its others, key files."""

    def __init__(self, target: Target) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._target, self._encrypted = target, False

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Try one key after the other."""
        self._transport = transport
        return super().authenticate(transport)

    def get_sources(self) -> Iterator[AuthSource]:
        """Each key, then the error."""
        for key in self._keys():
            yield InMemoryPrivateKey(self._target.user, key)
            if not self._transport.is_active():
                raise paramiko.SSHException(
                    "it closed the connection while our keys were tried; if it allows few attempts, use "
                    "IdentitiesOnly"
                )
        if self._encrypted:
            raise paramiko.PasswordRequiredException
        raise paramiko.AuthenticationException

    def _keys(self) -> Iterator[paramiko.PKey]:
        files = [path for path in self._target.keys if path.is_file()]
        tried = set()
        if self._target.agent is not None:
            with suppress(OSError, paramiko.SSHException), closing(_Agent(self._target.agent)) as agent:
                held = {key.asbytes(): key for key in agent.get_keys()}
                named = [blob for blob in map(_public, self._target.keys) if blob in held]
                others = () if self._target.only_keys else held
                for blob in dict.fromkeys([*named, *others]):
                    tried.add(blob)
                    yield held[blob]
        for path in files:
            try:
                key = paramiko.PKey.from_path(path)
            except (paramiko.PasswordRequiredException, TypeError):  # cryptography raises the latter
                self._encrypted |= _public(path) not in tried
            except (paramiko.SSHException, UnknownKeyType, UnsupportedAlgorithm, ValueError, OSError):
                continue  # not a private key that paramiko knows
            else:
                if key.asbytes() not in tried:
                    yield key


def _public(path: Path) -> bytes | None:
    """The public half of a key, from the file beside it or from the file itself."""
    for file in (Path(f"{path}.pub"), path):
        with suppress(OSError, ValueError, IndexError):
            return base64.b64decode(file.read_text().split()[1], validate=True)
    return None


def _link_error(target: Target, error: Exception) -> LinkError:
    if isinstance(error, _UnknownHostKey | paramiko.BadHostKeyException):
        return LinkError(f"the host key of {target.known_as} {_about_key(target, error)}", hopeless=True)
    if isinstance(error, paramiko.PasswordRequiredException):
        text = f"{target}: our key is encrypted, and dlperf asks for no passphrase; run ssh-add"
        return LinkError(text, hopeless=True)
    if isinstance(error, paramiko.AuthenticationException):
        files = [str(path) for path in target.keys if path.is_file()]
        agent = ["ssh-agent's"] if target.agent else []
        tried = ", ".join([*files, *agent]) or f"none: there is no {' or '.join(map(str, target.keys))}"
        return LinkError(
            f"{target} accepts none of our keys (tried: {tried}); "
            f"try `ssh {shlex.quote(str(target).partition(':')[0])}`, or add one with ssh-copy-id",
            hopeless=True,
        )
    way = f" through the ProxyCommand {target.proxy_command!r}" if target.proxy_command else ""
    # After one timeout another attempt is not worth the wait.
    hopeless = isinstance(error, TimeoutError | ValueError)
    return LinkError(f"{target} cannot be reached{way}: {_describe(error)}", hopeless=hopeless)


def _about_key(target: Target, error: _UnknownHostKey | paramiko.BadHostKeyException) -> str:
    file = shlex.quote(str(target.new_host_keys)) if target.new_host_keys else None
    if isinstance(error, paramiko.BadHostKeyException):
        removal = (
            f"ssh-keygen -f {file} -R {shlex.quote(target.known_as)}"
            if file
            else f"remove its line from {' or '.join(map(str, target.known_hosts))}"
        )
        return (
            f"has CHANGED: known is {error.expected_key.fingerprint}, it shows {error.key.fingerprint}; "
            f"somebody may be in between. If the change is rightful: {removal}"
        )
    if error.revoked:
        return f"is revoked in known_hosts: {error.key.fingerprint}; the node needs a new one"
    line = f"{target.known_as} {error.key.get_name()} {error.key.get_base64()}"
    adding = (
        f"add it with: echo {shlex.quote(line)} >> {file}"
        if file
        else f"name a file with UserKnownHostsFile in ssh's configuration and add this line to it: {line}"
    )
    return (
        f"is not known: {error.key.fingerprint}; if that is what "
        f"`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` (or another key's) says there, {adding}"
    )


def _describe(error: Exception) -> str:
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return "nothing answers on that port"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or "the connection was closed"
