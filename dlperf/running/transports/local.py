"""The supervisor on this machine, as a child process whose standard input is the lease."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TypeVar

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments import Environment, ensure
from dlperf.errors import InfrastructureError
from dlperf.files import run_shipped, shipped_folder
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.plan.machine import Gpu, detect_machine
from dlperf.results.schema import Clock
from dlperf.results.schema import Node as NodeFacts
from dlperf.running.busy import Busy
from dlperf.running.launch import NodeLaunch, free_port, inherited, local_launch
from dlperf.running.run_folder import wait_until_deserted

_CHUNK_BYTES = 1 << 16
_LONGEST_COMPLAINT = 2000
_DESCRIBED_SECONDS = 120.0  # a driver in trouble answers late, or not at all
_CLOSE_SECONDS = 60.0  # the supervisor ends within seconds, unless a disk or a driver does not answer

_Answer = TypeVar("_Answer", bound=Model)


class LocalConnection:
    """A supervisor that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], *, folder: Path) -> None:
        self._process, self._errors, self._folder = process, errors, folder
        if process.stdin is None or process.stdout is None:
            raise ValueError("the supervisor's standard input and output must be pipes")
        self._input, self._output = process.stdin, process.stdout

    def receive(self) -> bytes:
        return os.read(self._output.fileno(), _CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        """See Connection; a few bytes always fit into a pipe that the supervisor reads."""
        os.write(self._input.fileno(), data)

    def exit_code(self) -> int | None:
        return self._process.wait()

    def complaint(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read(_LONGEST_COMPLAINT).decode(errors="replace").split())

    def hang_up(self) -> None:
        self._input.close()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill_tree(self) -> None:
        for pid in _tree(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def give_up(self) -> None:
        raise InfrastructureError(
            f"{self._folder}: SIGKILL does not end its supervisor, because a disk or a driver does not "
            f"answer; completed runs are kept: start again when it does (left: {self.removal_command})"
        )

    def close(self) -> None:
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):  # it was given up
            self._process.wait(_CLOSE_SECONDS)
        self._output.close()
        self._errors.close()

    @property
    def removal_command(self) -> str:
        return f"kill -9 {' '.join(map(str, _tree(self._process.pid)))}"


def start_local_supervisor(folder: Path, *, launch: str) -> LocalConnection:
    """Start the supervisor in a run folder with the launch file `launch`; InfrastructureError if it fails."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by the connection
    command = [sys.executable, "-I", str(shipped_folder("frameworks") / "supervisor.py"), launch]
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal reaches dlperf, which then decides
        )
    except OSError as error:
        errors.close()
        raise InfrastructureError(f"the supervisor cannot be started: {error}") from error
    return LocalConnection(process, errors, folder=folder)


def _tree(root: int) -> list[int]:
    """A process and all below it, in an order in which none can start another one unseen: parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has just ended
                parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def this_node() -> NodeFacts:
    """This machine as it is now, described by the program that describes the nodes of a cluster too."""
    return _answer_of("facts", NodeFacts)


def this_machine_busy() -> Busy:
    """What else keeps this machine's CPUs busy; takes a second."""
    return _answer_of("busy", Busy)


def _answer_of(name: str, model: type[_Answer]) -> _Answer:
    what = f"frameworks/node/{name}.py cannot describe this machine"
    answer = run_shipped(f"frameworks.node.{name}", seconds=_DESCRIBED_SECONDS, what=what)
    try:
        return model.model_validate_json(answer)
    except ValueError as error:
        raise InfrastructureError(f"{what}: {error}") from None


class LocalNode:
    """This machine; ranks run in the run folder itself."""

    remote = False
    trouble = None

    def __init__(self, *, report: Callable[[str], None], in_use: ExitStack) -> None:
        """`report` receives messages about environments; `in_use` keeps them from being removed."""
        self._report, self._in_use = report, in_use
        self.name = socket.gethostname()

    def connect(self) -> None:
        """See Node; always reachable."""

    def fits(self, case: Case) -> bool:
        """See Node; the plan was made for this machine."""
        del case
        return True

    def placed(self, folder: Path, *, python: Path) -> NodeLaunch:
        return local_launch(folder, python=python)

    def facts(self) -> NodeFacts:
        return this_node()

    def gpu(self) -> Gpu | None:
        return detect_machine().gpu

    def busy(self) -> Busy:
        return this_machine_busy()

    def clock(self) -> Clock:
        """See Node; it is ours."""
        return Clock(ahead_seconds=0.0, uncertainty_seconds=0.0)

    def inherited(self, own: Iterable[str]) -> dict[str, str]:
        return inherited(os.environ, own)

    def free_port(self) -> int:
        return free_port()

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        environment = ensure(spec, python=python, report=self._report)
        self._in_use.enter_context(environment.in_use())
        return environment

    def source(self, packed: Path) -> Path:
        """See Node; it is read where it is."""
        return packed

    def open(self, folder: Path, *, launch: str) -> LocalConnection:
        return start_local_supervisor(folder, launch=launch)

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """See Node; the files are here already."""
        del outcome
        wait_until_deserted(folder)
