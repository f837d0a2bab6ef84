"""A node of a cluster: one connection for the whole sweep, the same supervisor as on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tarfile
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, Protocol

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments import Environment, ensure
from dlperf.environments.environment import environment_key
from dlperf.environments.make import adopting_request, environment_from, making_request, user_environment_from
from dlperf.environments.uv import find_uv
from dlperf.errors import EnvironmentUnavailable
from dlperf.layout import CASE_NAME, LAUNCH_NAME, RUNS_FOLDER, SOURCES_FOLDER
from dlperf.plan.case import Case
from dlperf.plan.cluster import ClusterNode, fits
from dlperf.plan.compatibility import refusal
from dlperf.plan.machine import Gpu, least_of
from dlperf.plan.versions import find_links_folder
from dlperf.redaction import redacted_text
from dlperf.results.schema import Clock
from dlperf.results.schema import Node as NodeFacts
from dlperf.running.busy import Busy
from dlperf.running.launch import NodeLaunch
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.session import (
    Attendant,
    Channel,
    LinkError,
    Refusal,
    RemoteConnection,
    Silent,
    attend_command,
    errors_of,
    greet,
    node_command,
    send_all,
    shipped_code,
    unpack,
)

# The run's folder, in every process that a run starts on a node: `dlperf cluster clean` finds them by it.
_RUN_VARIABLE = "DLPERF_RUN"


# The soonest answer tells a clock best.
_CLOCK_QUESTIONS = 5
# What to do where a node cannot have an environment, by the way that it was to come.
_HINTS = {
    "make": "; `environments: copy` in the cluster file makes it here and copies it",
    "copy": "",
    "shared": "; if the nodes do not see dlperf's cache, set DLPERF_CACHE to a folder on shared storage, or "
    "`environments: copy` in the cluster file",
}


class Place(Protocol):
    """Where a node is; its text is for people."""

    @property
    def host(self) -> str:
        """What the ranks of other nodes can connect to."""

    @property
    def port(self) -> int:
        """Of what listens there; with the host it tells machines apart."""


class Carrier(Protocol):
    """A connection to a node, for any number of commands at once."""

    @property
    def is_up(self) -> bool:
        """Whether it has not been found broken."""

    def start(self, argv: Sequence[str]) -> Channel:
        """Start a command; the channel is its standard streams. LinkError where it cannot be started."""

    def close(self) -> None:
        """Close it and whatever it carries."""


class RemoteNode(ABC):
    """One node of a cluster. Not connected until `connect`; safe to use from several threads."""

    remote = True

    def __init__(self, spec: ClusterNode, *, target: Place, cluster: str, say: Callable[[str], None]) -> None:
        self._spec, self._cluster, self._say, self._held = spec, cluster, say, False
        self.name, self.target = spec.name, target
        self.interface = spec.interface
        self.trouble: str | None = "not connected"
        self._link: Carrier | None = None
        self._attendant: Attendant | None = None
        self._hello: dict[str, Any] = {}
        self._losing = threading.Lock()

    def connect(self) -> None:
        self.reach()
        self.must_suit()

    def reach(self) -> None:
        """Connect, ship the code if it is missing, and lock the node again if it was held before."""
        self.close()
        try:
            self._link = self._linked()
            self._attendant = self._attend(self._link)
            self.trouble = None
            self._hello = self.ask("hello", interface=self.interface, variables=self._spec.environment)
            holder = self.ask("lock")["holder"] if self._held else None
            if holder is not None:
                raise Refusal(f"another dlperf measures there: {holder}")  # noqa: TRY301
        except (LinkError, Refusal, OSError, EOFError) as error:
            self.close()
            self.trouble = str(error) or "the connection broke"
            raise NodeLost(self, self.trouble) from error

    @abstractmethod
    def _linked(self) -> Carrier:
        """A new connection; LinkError where there is none."""

    def must_suit(self) -> None:
        """Disconnect and raise NodeLost if the node has less than the cluster file says, or other GPUs."""
        cores = len(self._hello["cpus"])
        reason = None
        if cores < self._spec.cores:
            reason = self._few_cores(cores)
        elif self.interface is not None and not self.has_interface:
            reason = f"it has no interface {self.interface} with an IPv4 address"
        elif self._spec.device == "cuda":
            reason = self._spec.lacking(self._gpus())
        if reason is not None:
            self.set_aside(reason)

    def _few_cores(self, cores: int) -> str:
        return f"the cluster file says {self._spec.cores} cores, it has {cores}; put cores: {cores}"

    def set_aside(self, reason: str) -> NoReturn:
        """Disconnect, which releases its lock, and raise NodeLost."""
        self.close()
        self.trouble = reason
        raise NodeLost(self, reason)

    def hold(self) -> str | None:
        """Keep every other dlperf from measuring there, from now on and after each reconnection.

        Returns who else measures there, in words; None: the node is ours. NodeLost where it is not connected,
        or cannot be locked.
        """
        self._held = True
        try:
            holder: str | None = self.ask("lock")["holder"]
        except Refusal as error:
            self.set_aside(str(error))
        return holder

    def _attend(self, link: Carrier) -> Attendant:
        code = shipped_code()
        command = attend_command(self._spec.python, work=self._spec.work, code=code)
        channel = link.start(self._command(command))
        unread = greet(channel, code=code, python=self._spec.python)
        return Attendant(channel, lost=self._lose, unread=unread)

    def _lose(self, reason: str) -> None:
        """Drop the connection, so that nothing waits for it."""
        with self._losing:
            if self.trouble is None:
                self.trouble = f"lost: {reason}"
        if self._link is not None:
            self._link.close()

    def close(self) -> None:
        """Disconnect, which releases the node's lock."""
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
        """The answer to a question that every working node can answer."""
        try:
            return self.ask(op)[op]
        except Refusal as error:
            raise NodeLost(self, str(error)) from error

    def _gpus(self) -> list[Gpu]:
        """Those that the cluster file counts."""
        return [Gpu.model_validate(device) for device in self._must_tell("gpus")][: self._spec.devices]

    def fits(self, case: Case) -> bool:
        """See Node; whether cores may be shared was decided when the plan was made."""
        return fits(self._spec, case, oversubscribe=True)

    @property
    def address(self) -> str:
        """What the ranks of other nodes connect to: of the cluster file, of the interface, or of ssh."""
        return self._spec.engine_address or self._hello["address"] or self.target.host

    @property
    def has_interface(self) -> bool:
        """Whether the cluster file's interface had an IPv4 address at `connect`."""
        return bool(self._hello["address"])

    @property
    def work(self) -> PurePosixPath:
        """The folder on the node that holds everything of dlperf."""
        return PurePosixPath(self._hello["work"])

    @property
    def code(self) -> Path:
        """The folder on the node that holds `frameworks/`."""
        return Path(self.work / "code" / shipped_code().name)

    def placed(self, folder: Path, *, python: Path) -> NodeLaunch:
        """See Node; with as many of the node's CPUs as the cluster file allows."""
        cpus = {int(cpu): (int(place[0]), int(place[1])) for cpu, place in self._hello["cpus"].items()}
        return NodeLaunch(
            cores=dict(sorted(cpus.items())[: self._spec.cores]),
            address=self.address,
            interface=self.interface,
            python=python,
            case_file=Path(self.work / RUNS_FOLDER / _run_name(folder) / CASE_NAME),
            code=self.code,
            variables=(*self._spec.environment, _RUN_VARIABLE),
        )

    def facts(self) -> NodeFacts:
        facts = self._must_tell("facts") | {"link": self._spec.link}
        return NodeFacts.model_validate_json(json.dumps(facts))

    def gpu(self) -> Gpu | None:
        return least_of(self._gpus())

    def busy(self) -> Busy:
        return Busy.model_validate(self._must_tell("busy"))

    def clock(self) -> Clock:
        """See Node; by the question that was answered soonest."""
        found = []
        for _ in range(_CLOCK_QUESTIONS):
            ours, before = time.time(), time.perf_counter()
            theirs = float(self._must_tell("time"))
            half = (time.perf_counter() - before) / 2
            found.append((half, theirs - ours - half))
        half, ahead = min(found)
        return Clock(ahead_seconds=round(ahead, 6) + 0.0, uncertainty_seconds=round(half, 6))  # no -0

    def inherited(self, own: Iterable[str]) -> dict[str, str]:
        """See Node; the node's own variables are not known here."""
        del own
        return dict(self._spec.environment)

    def free_port(self) -> int:
        return int(self._must_tell("port"))

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """See Node: found there, made there with uv, or made here and copied."""
        name = f"{spec.framework}=={spec.version}"
        if spec.cuda is not None and python is None:
            reason = refusal(spec, self._gpus())
            if reason is not None:
                raise EnvironmentUnavailable(reason)

        def progress(text: str) -> None:
            self._say(f"{self.name}: {name}: {redacted_text(text)}")

        try:
            if python is not None:
                return user_environment_from(spec, self.ask(**adopting_request(spec, python))["environment"])
            if self._spec.environments == "shared":
                here = ensure(spec, report=progress)
                found = self.ask(**adopting_request(spec, here.python))["environment"]
                return replace(user_environment_from(spec, found), root=here.root, manifest=here.manifest)
            request = making_request(spec)
            found = self.ask(**request, found_only=True)["environment"]
            if found is not None:
                return environment_from(found)
            # What is built from source is built once, here; the user's own wheels are only here.
            own = spec.wheel or (spec.find_links and find_links_folder(spec.find_links))
            if self._spec.environments == "copy" or spec.builds or own:
                request = self._copy_environment(spec, progress)
            elif self._hello["uv"] is None:
                self._bring_uv(progress)
            answer = self.ask(**request, found_only=False, progress=progress, limit_seconds=None)
        except Refusal as error:
            hint = "" if python else _HINTS[self._spec.environments]
            why = redacted_text(str(error))  # of uv, which may name an index with a password
            raise EnvironmentUnavailable(f"{name} on {self.name}: {why}{hint}") from error
        return environment_from(answer["environment"])

    def _copy_environment(self, spec: EnvironmentSpec, progress: Callable[[str], None]) -> dict[str, Any]:
        """Create the environment on this machine and copy it; returns the request that puts it to use."""
        here = ensure(spec, report=self._say)
        folder = f"environments/.copied-{environment_key(spec)}"
        with here.in_use():
            progress("copying its environment")
            self._put_folder(here.root, folder, level=1)
        minor = ".".join(here.manifest.python_version.split(".")[:2])
        return making_request(spec, copied=str(self.work / folder), python=minor)

    def source(self, packed: Path) -> Path:
        """See Node; sent once, as the folder is named by its content."""
        path = f"{SOURCES_FOLDER}/{packed.name}"
        try:
            if not self.ask("there", path=path)["there"]:
                self._say(f"{self.name}: copying the original program {packed.name}")
                self._put_folder(packed, path, level=6)
        except Refusal as error:
            raise NodeLost(self, f"the original program cannot be copied: {error}") from error
        return Path(self.work / path)

    def _bring_uv(self, progress: Callable[[str], None]) -> None:
        """Copy our own uv, one static program, to the node."""
        here = find_uv(progress)
        if self._hello["architecture"] != os.uname().machine:
            raise Refusal("there is no uv on this node, and ours is for another kind of processor")
        progress("bringing uv")
        with here.path.open("rb") as stream:
            self._put("put-program", f"tools/uv-{here.version.split()[-1]}", stream)

    def _put_folder(self, folder: Path, path: str, *, level: int) -> None:
        """Copy a folder to a path under `work`, compressed on the way; Refusal as from `_put`."""
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=level) as archive:
                archive.add(folder, ".")
            packed.seek(0)
            self._put("put", path, packed)

    def _put(self, operation: str, path: str, content: IO[bytes]) -> None:
        """Copy a program (`put-program`) or the tar of a folder (`put`) to a path under `work`.

        Refusal if the copy did not arrive, for example because the disk is full.
        """
        channel = self.start(self._program(operation, path))
        try:
            code, errors = send_all(channel, content)
        finally:
            channel.close()
        if not self._is_up():
            raise NodeLost(self, self.trouble or "the connection broke")
        if code != 0:
            raise Refusal(errors or "the copy did not arrive")

    def open(self, folder: Path, *, launch: str) -> RemoteConnection:
        """See Node; one command takes the files and becomes the supervisor."""
        files = {CASE_NAME: folder / CASE_NAME, LAUNCH_NAME: folder / launch}
        content = {
            "files": {name: path.read_text(encoding="utf-8") for name, path in files.items()},
            "environment": self._spec.environment,
        }
        data, name = json.dumps(content).encode(), _run_name(folder)
        command = self._program("run", name, str(len(data)))
        channel = self.start(["env", f"{_RUN_VARIABLE}={self.work / RUNS_FOLDER / name}", *command])
        try:
            channel.sendall(data)
        except (OSError, EOFError) as error:
            raise NodeLost(self, self.trouble or "the connection broke") from error
        removal = shlex.join(["dlperf", "cluster", "clean", self._cluster, "--node", self.name])

        def kill_tree() -> None:
            with contextlib.suppress(NodeLost, Refusal):  # its end, or that of the connection, tells
                self.ask("end", run=name)

        def give_up() -> None:
            self._lose("its supervisor does not end even by SIGKILL")

        return RemoteConnection(channel, self._is_up, removal, kill_tree, give_up)

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        channel = self.start(self._program("fetch", _run_name(folder)))
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
        """Start a command on the node, after its prefix."""
        if self._link is None or self.trouble is not None:
            raise NodeLost(self, self.trouble or "not connected")
        try:
            return self._link.start(self._command(argv))
        except LinkError as error:
            self._lose(str(error))
            raise NodeLost(self, str(error)) from error

    def _command(self, argv: Sequence[str]) -> list[str]:
        return [*self._spec.prefix, *argv]

    def _program(self, *words: str) -> list[str]:
        # Not the name in the cluster file again: it may stand for a script that looks for the interpreter.
        python = self._hello["executable"]
        return node_command(python, code=self.code, work=self._spec.work, words=words)

    def _is_up(self) -> bool:
        return self.trouble is None and self._link is not None and self._link.is_up


def _run_name(folder: Path) -> str:
    """The name of the run's folder on a node."""
    return f"{folder.parent.name}-{folder.name}"
