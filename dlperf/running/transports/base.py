"""What every kind of node provides: this machine, or one behind ssh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments import Environment
from dlperf.errors import InfrastructureError
from dlperf.plan.case import Case
from dlperf.results.schema import Node as NodeFacts
from dlperf.running.launch import Core

# sshd refuses connections at random when more than ten are being made, and a node has little to do for us.
_MOST_AT_ONCE = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class NodeLost(InfrastructureError):
    """A node does not answer any more, or has never done so."""

    def __init__(self, node: Node, reason: str) -> None:
        self.node = node
        super().__init__(reason)


class Connection(Protocol):
    """A supervisor at work on one node, by its three standard streams.

    The supervisor lives as long as its standard input: who drops a connection ends the run. `receive` and
    `send` are called from different threads.
    """

    def receive(self) -> bytes:
        """What the supervisor has printed since the last call, at least one byte; b"" at the end.

        The end comes when no process of the supervisor is left, or when the node is lost.
        """

    def send(self, data: bytes) -> None:
        """Write to its standard input at once; OSError where it is gone. Safe in a signal handler."""

    def exit_code(self) -> int | None:
        """Wait for its end and give its exit code; None where the node was lost.

        Called when `receive` has come to its end, so that it takes no time to speak of.
        """

    def complaint(self) -> str:
        """What it wrote to standard error, as one line; called after `exit_code`."""

    def hang_up(self) -> None:
        """Close its standard input: a run that still goes on ends at once. Returns without waiting."""

    def close(self) -> None:
        """Let go of everything that is held for it; called last, when nobody receives any more."""

    @property
    def removal_command(self) -> str:
        """What a person can type to end whatever is left of the run if this process goes away now."""


class Node(Protocol):
    """One machine that ranks can run on, this one or another."""

    @property
    def name(self) -> str:
        """As people call it: the host's name, or the name in the cluster file."""

    @property
    def remote(self) -> bool:
        """Whether it can be lost: it is not this machine."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can run on it now; None where it answered a moment ago."""

    @property
    def cores(self) -> Mapping[int, Core]:
        """The CPUs that ranks may be bound to, each with its core."""

    @property
    def address(self) -> str:
        """Where the ranks of the other nodes reach this one."""

    @property
    def interface(self) -> str | None:
        """The network interface between the nodes; None leaves it to the engine."""

    @property
    def code(self) -> Path:
        """The folder on the node that holds `frameworks/`."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of variables that the user has set for this node."""

    def connect(self) -> None:
        """Reach it, again if it was lost.

        Raises:
            NodeLost: it cannot be reached, or is not fit to run anything; with the reason.
        """

    def fits(self, case: Case) -> bool:
        """Whether it has what the case needs on each of its nodes."""

    def case_file(self, folder: Path) -> Path:
        """Where the case file of the run folder `folder` lies on the node."""

    def facts(self) -> NodeFacts:
        """What it is, as it is now. Raises as `open`."""

    def inherited(self) -> dict[str, str]:
        """The variables that its ranks inherit, as far as they are known here."""

    def free_port(self) -> int:
        """A TCP port that nobody listens on there at the moment. Raises as `open`."""

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """The environment of `spec` on the node, made there if it has none; or the user's own `python`.

        Raises:
            EnvironmentUnavailable: it cannot be made or does not work; with the reason.
        """

    def open(self, folder: Path, *, launch: str) -> Connection:
        """Bring case file and launch file of a run folder to the node and start the supervisor there.

        Args:
            folder: the run folder on this machine.
            launch: name of the node's launch file in it.

        Raises:
            NodeLost: the node cannot be reached.
            InfrastructureError: the supervisor cannot be started.
        """

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """Bring logs and outcome into `folder`, the outcome under the name `outcome`, after the end.

        Raises:
            NodeLost: the node was lost.
            InfrastructureError: processes of the run are still there.
        """


def each(items: Sequence[Item], function: Callable[[Item], Result]) -> list[Result]:
    """`function` of every item, several at once, in their order.

    The first item's error is raised when all are done, if there is one.
    """
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(max_workers=_MOST_AT_ONCE) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]
