"""A node behind ssh: one connection for the whole sweep, the same supervisor as on this machine."""

from __future__ import annotations

import contextlib
import json
import shlex
import tarfile
import threading
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from dlperf.plan.cluster import fits
from dlperf.running.provenance import node_from_facts
from dlperf.running.run_folder import CASE_NAME, LAUNCH_NAME
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.ssh_attend import Attendant, Refusal, Silent
from dlperf.running.transports.ssh_code import attending, program, shipped_code
from dlperf.running.transports.ssh_config import target_of
from dlperf.running.transports.ssh_connection import SshConnection, begun, errors_of, sent, unpack
from dlperf.running.transports.ssh_environment import environment_on
from dlperf.running.transports.ssh_link import Link, LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from paramiko.channel import Channel
    from paramiko.config import SSHConfig

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.environments import Environment
    from dlperf.plan.case import Case
    from dlperf.plan.cluster import ClusterNode
    from dlperf.results.environment import Node as NodeFacts
    from dlperf.running.places import Core

# Of every process that a run starts on a node: `dlperf cluster clean` knows them by it.
_RUN_VARIABLE = "DLPERF_RUN"


class SshNode:
    """One node of a cluster. Not connected until `connect`; safe to use from several threads."""

    remote = True

    def __init__(
        self, spec: ClusterNode, *, cluster: str, config: SSHConfig, say: Callable[[str], None]
    ) -> None:
        """Take what the cluster file says, the user's ssh configuration, and where messages go."""
        self._spec, self._cluster, self._say, self._held = spec, cluster, say, False
        self.name = spec.name
        self.target = target_of(spec, config)
        self.interface = spec.interface
        self.variables = (*spec.environment, _RUN_VARIABLE)
        self.trouble: str | None = "not connected"
        self._link: Link | None = None
        self._attendant: Attendant | None = None
        self._hello: dict[str, Any] = {}
        self._losing = threading.Lock()

    def connect(self) -> None:
        """See Node."""
        self.reach()
        self.must_suit()

    def reach(self) -> None:
        """Connect, and ship the code where it is missing. A node whose lock was held is held again.

        Raises:
            NodeLost: it cannot be reached.
        """
        self.close()
        try:
            self._link = Link.connect(self.target)
            self._attendant = self._attend(self._link)
            self.trouble = None
            self._hello = self.ask("hello", interface=self.interface, variables=self._spec.environment)
            if self._held:
                self.ask("lock")
        except (LinkError, Refusal, OSError, EOFError) as error:
            self.close()
            self.trouble = str(error) or "the connection broke"
            raise NodeLost(self, self.trouble) from error

    def must_suit(self) -> None:
        """Give a node up that is less than the cluster file says.

        Raises:
            NodeLost: it is; with the reason.
        """
        cores = len(self._hello["cpus"])
        reason = None
        if cores < self._spec.cores:
            reason = f"the cluster file says {self._spec.cores} cores, it has {cores}; put cores: {cores}"
        elif self.interface is not None and not self.has_interface:
            reason = f"it has no interface {self.interface} with an IPv4 address"
        elif self._spec.device == "cuda":
            gpus = len(self._must_tell("facts")["accelerators"])
            if gpus < self._spec.devices:
                listed = f"nvidia-smi lists {gpus or 'none'}"
                reason = f"the cluster file says {self._spec.devices} GPUs, {listed}"
        if reason is not None:
            self.close()
            self.trouble = reason
            raise NodeLost(self, reason)

    def hold(self) -> bool:
        """Keep every other dlperf from measuring there, until `close`; False where another one does already.

        Raises:
            NodeLost: it was lost meanwhile.
        """
        try:
            self.ask("lock")
        except Refusal:
            return False
        self._held = True
        return True

    def _attend(self, link: Link) -> Attendant:
        code = shipped_code()
        channel = link.start(self._command(attending(self._spec.python, work=self._spec.work, code=code)))
        unread = begun(channel, code=code, python=self._spec.python)
        return Attendant(channel, lost=self._lose, unread=unread)

    def _lose(self, reason: str) -> None:
        """Give the connection up: whoever waits for something on it comes to the end."""
        with self._losing:
            if self.trouble is None:
                self.trouble = f"lost: {reason}"
        if self._link is not None:
            self._link.close()

    def close(self) -> None:
        """Let go of the node and of its lock."""
        attendant, link = self._attendant, self._link
        self._attendant = self._link = None
        self.trouble = self.trouble or "not connected"
        if attendant is not None:
            attendant.close()
        if link is not None:
            link.close()

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The node's answer to a request of frameworks/node/attend.py; NodeLost or Refusal."""
        if self._attendant is None:
            raise NodeLost(self, self.trouble or "not connected")
        try:
            return self._attendant.ask(op, **arguments)
        except Silent as error:
            self._lose(str(error))
            raise NodeLost(self, self.trouble or str(error)) from error

    def _must_tell(self, op: str) -> Any:
        """The answer to a question that every sound node can answer."""
        try:
            return self.ask(op)[op]
        except Refusal as error:
            raise NodeLost(self, str(error)) from error

    def fits(self, case: Case) -> bool:
        """See Node; whether cores may be shared was decided when the plan was made."""
        return fits(self._spec, case, oversubscribe=True)

    @property
    def cores(self) -> Mapping[int, Core]:
        """See Node; as many of the node's CPUs as the cluster file allows."""
        cpus = {int(cpu): (int(place[0]), int(place[1])) for cpu, place in self._hello["cpus"].items()}
        return dict(sorted(cpus.items())[: self._spec.cores])

    @property
    def address(self) -> str:
        """See Node: what the cluster file says, else the interface's own, else where ssh connects to."""
        return self._spec.engine_address or self._hello["address"] or self.target.host

    @property
    def has_interface(self) -> bool:
        """Whether the interface that the cluster file names was there, with an address, at `connect`."""
        return bool(self._hello["address"])

    @property
    def work(self) -> PurePosixPath:
        """The folder on the node that holds everything of dlperf."""
        return PurePosixPath(self._hello["work"])

    @property
    def code(self) -> Path:
        """See Node."""
        return Path(self.work / "code" / shipped_code().name)

    def case_file(self, folder: Path) -> Path:
        """See Node."""
        return Path(self.work / "runs" / _run_name(folder) / CASE_NAME)

    def facts(self) -> NodeFacts:
        """See Node."""
        return node_from_facts(self._must_tell("facts") | {"link": self._spec.link})

    def inherited(self) -> dict[str, str]:
        """See Node; the node's own variables are not known here."""
        return dict(self._spec.environment)

    def free_port(self) -> int:
        """See Node."""
        return int(self._must_tell("port"))

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """See Node."""
        copy = self._spec.environments == "copy"
        return environment_on(self, spec, python=python, copy=copy, say=self._say)

    @property
    def uv(self) -> str | None:
        """The uv that was on the node when it was connected."""
        path: str | None = self._hello["uv"]
        return path

    @property
    def architecture(self) -> str:
        """Of its processor, such as x86_64."""
        return str(self._hello["architecture"])

    def put(self, how: str, place: str, content: IO[bytes]) -> None:
        """Bring a program (`put-program`) or the tar of a folder (`put`) to a place under `work`.

        Raises:
            NodeLost: it was lost meanwhile.
            Refusal: it has no room, for one.
        """
        channel = self.start(self._program([how, place]))
        try:
            code, errors = sent(channel, content)
        finally:
            channel.close()
        if not self._is_up():
            raise NodeLost(self, self.trouble or "the connection broke")
        if code != 0:
            raise Refusal(errors or "the copy did not arrive")

    def open(self, folder: Path, *, launch: str) -> SshConnection:
        """See Node; one command takes the files and becomes the supervisor."""
        files = {CASE_NAME: folder / CASE_NAME, LAUNCH_NAME: folder / launch}
        content = {
            "files": {name: path.read_text(encoding="utf-8") for name, path in files.items()},
            "environment": self._spec.environment,
        }
        data, name = json.dumps(content).encode(), _run_name(folder)
        words = ["run", name, str(len(data))]
        command = self._program(words)
        channel = self.start(["env", f"{_RUN_VARIABLE}={name}", *command])
        try:
            channel.sendall(data)
        except (OSError, EOFError) as error:
            raise NodeLost(self, self.trouble or "the connection broke") from error
        removal = shlex.join(["dlperf", "cluster", "clean", self._cluster, "--node", self.name])
        return SshConnection(channel, is_up=self._is_up, removal_command=removal)

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """See Node."""
        words = ["fetch", _run_name(folder)]
        channel = self.start(self._program(words))
        try:
            with channel.makefile("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                unpack(archive, folder, outcome=outcome)
            with contextlib.suppress(OSError, EOFError):  # everything is here; the node forgets it later
                channel.sendall(b"d")
                channel.recv_exit_status()
        except (tarfile.TarError, EOFError) as error:
            reason = self.trouble or errors_of(channel) or "its logs came only in part"
            raise NodeLost(self, reason) from error
        finally:
            channel.close()

    def start(self, argv: Sequence[str]) -> Channel:
        """Start a command on the node, behind its prefix; NodeLost where that cannot be done."""
        if self._link is None or self.trouble is not None:
            raise NodeLost(self, self.trouble or "not connected")
        try:
            return self._link.start(self._command(argv))
        except LinkError as error:
            self._lose(str(error))
            raise NodeLost(self, str(error)) from error

    def _command(self, argv: Sequence[str]) -> list[str]:
        return [*self._spec.prefix, *argv]

    def _program(self, words: Sequence[str]) -> list[str]:
        return program(self._spec.python, code=self.code, work=self._spec.work, words=words)

    def _is_up(self) -> bool:
        return self.trouble is None and self._link is not None and self._link.is_up


def _run_name(folder: Path) -> str:
    """The run's folder on a node: of a case and a repeat, as here."""
    return f"{folder.parent.name}-{folder.name}"
