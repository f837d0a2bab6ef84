"""The interface of a node: this machine, or one reached over ssh."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments import Environment
from dlperf.errors import InfrastructureError
from dlperf.plan.case import Case
from dlperf.plan.machine import Gpu
from dlperf.results.schema import Clock
from dlperf.results.schema import Node as NodeFacts
from dlperf.running.busy import Busy
from dlperf.running.launch import NodeLaunch

# sshd refuses connections at random when more than ten are being opened.
_MOST_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class NodeLost(InfrastructureError):
    """A node does not answer, or no longer answers."""

    def __init__(self, node: Node, reason: str) -> None:
        self.node = node
        super().__init__(reason)


class NodeGone(NodeLost):
    """A node was taken away for good."""


class Connection(Protocol):
    """A supervisor on one node, through its standard streams; closing its standard input ends the run.

    `receive` and `send` are called from different threads.
    """

    def receive(self) -> bytes:
        """Wait for output; b"" when no process of the supervisor is left, or the node is lost."""

    def send(self, data: bytes) -> None:
        """Write to its standard input at once; OSError if it has ended. Safe in a signal handler."""

    def exit_code(self) -> int | None:
        """Its exit code, None if the node was lost; called after `receive` has returned b""."""

    def complaint(self) -> str:
        """Its standard error as one line; called after `exit_code`."""

    def hang_up(self) -> None:
        """Close its standard input, which ends the run; returns without waiting."""

    def has_ended(self) -> bool:
        """Whether the supervisor has ended, even if another process keeps its output open."""

    def kill_tree(self) -> None:
        """Kill the supervisor and all that it started, as it no longer does so itself."""

    def give_up(self) -> None:
        """Wait for it no longer, because not even SIGKILL ends it.

        InfrastructureError where this machine cannot go on.
        """

    def close(self) -> None:
        """Release all resources; called last."""

    @property
    def removal_command(self) -> str:
        """The shell command that ends whatever is left of the run if this process exits now."""


class Node(Protocol):
    """A machine that ranks can run on."""

    @property
    def name(self) -> str:
        """The host name, or the name in the cluster file."""

    @property
    def remote(self) -> bool:
        """Whether it is another machine, which can be lost."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can run on it now; None if it works."""

    def connect(self) -> None:
        """Connect, again if it was lost; NodeLost with the reason if it cannot be used.

        NodeGone where it never can again.
        """

    def fits(self, case: Case) -> bool:
        """Whether it has what the case needs on each node."""

    def placed(self, folder: Path, *, python: Path) -> NodeLaunch:
        """What it offers the run in `folder`, with the paths of the run's files on it."""

    def facts(self) -> NodeFacts:
        """A description of the node as it is now. Raises as `open`."""

    def gpu(self) -> Gpu | None:
        """What a build must run on there; None without a GPU. Raises as `open`."""

    def busy(self) -> Busy:
        """What else keeps its CPUs busy; takes a second. Raises as `open`."""

    def clock(self) -> Clock:
        """Its clock beside ours. Raises as `open`."""

    def inherited(self, own: Iterable[str]) -> dict[str, str]:
        """The variables that its ranks inherit, with patterns of `own`, as far as known on this machine."""

    def free_port(self) -> int:
        """A TCP port that is free on the node at the moment. Raises as `open`."""

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """The environment of `spec`, created if missing, or the user's own `python`.

        EnvironmentUnavailable with the reason if it cannot be created or does not work.
        """

    def source(self, packed: Path) -> Path:
        """The files of an original program on the node, which are packed in a folder of this machine.

        NodeLost where they cannot be brought there.
        """

    def open(self, folder: Path, *, launch: str) -> Connection:
        """Copy the case file and the launch file of a run folder to the node and start the supervisor.

        NodeLost where the node cannot be reached; InfrastructureError where the supervisor cannot be started.
        """

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """After the end, copy logs and outcome into `folder`, the outcome under the name `outcome`.

        NodeLost where the node was lost; InfrastructureError where processes of the run are still running.
        """


def each(items: Sequence[Item], function: Callable[[Item], Result]) -> list[Result]:
    """The results of `function` for all items, in their order, computed in several threads.

    If some fail, the error of the first of them is raised when all are done.
    """
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(max_workers=_MOST_THREADS) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]
