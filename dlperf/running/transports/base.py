"""The interface of a node: this machine, or one reached over ssh."""

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

# sshd refuses connections at random when more than ten are being opened.
_MOST_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class NodeLost(InfrastructureError):
    """A node does not answer, or no longer answers."""

    def __init__(self, node: Node, reason: str) -> None:
        self.node = node
        super().__init__(reason)


class Connection(Protocol):
    """A supervisor running on one node, by its three standard streams.

    The supervisor ends with its standard input: dropping a connection ends the run. `receive` and `send` are
    called from different threads.
    """

    def receive(self) -> bytes:
        """The supervisor's output since the last call, at least one byte.

        Returns b"" at the end: when no process of the supervisor is left, or when the node is lost.
        """

    def send(self, data: bytes) -> None:
        """Write to its standard input at once; OSError if it has ended. Safe in a signal handler."""

    def exit_code(self) -> int | None:
        """Wait for its end; returns its exit code, None if the node was lost.

        Called after `receive` has returned b"", so that it takes almost no time.
        """

    def complaint(self) -> str:
        """Its standard error as one line; called after `exit_code`."""

    def hang_up(self) -> None:
        """Close its standard input, which ends a run in progress. Returns without waiting."""

    def close(self) -> None:
        """Release all resources; called last, when no thread receives any more."""

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

    @property
    def cores(self) -> Mapping[int, Core]:
        """The CPUs that ranks may be bound to -> their cores."""

    @property
    def address(self) -> str:
        """The address at which the ranks of other nodes reach this one."""

    @property
    def interface(self) -> str | None:
        """The network interface between the nodes; None: the engine chooses."""

    @property
    def code(self) -> Path:
        """The folder on the node that holds `frameworks/`."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables that the user has set for this node."""

    def connect(self) -> None:
        """Connect, again if it was lost.

        Raises:
            NodeLost: it cannot be reached or cannot run anything; with the reason.
        """

    def fits(self, case: Case) -> bool:
        """Whether it has what the case needs on each node."""

    def case_file(self, folder: Path) -> Path:
        """The path on the node of the case file of the run folder `folder`."""

    def facts(self) -> NodeFacts:
        """A description of the node as it is now. Raises as `open`."""

    def inherited(self) -> dict[str, str]:
        """The variables that its ranks inherit, as far as known on this machine."""

    def free_port(self) -> int:
        """A TCP port that is free on the node at the moment. Raises as `open`."""

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """The environment of `spec` on the node, created if missing; or the user's own `python`.

        Raises:
            EnvironmentUnavailable: it cannot be created or does not work; with the reason.
        """

    def open(self, folder: Path, *, launch: str) -> Connection:
        """Copy the case file and the launch file of a run folder to the node and start the supervisor.

        Args:
            folder: the run folder on this machine.
            launch: the name of the node's launch file in it.

        Raises:
            NodeLost: the node cannot be reached.
            InfrastructureError: the supervisor cannot be started.
        """

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """After the end, copy logs and outcome into `folder`, the outcome under the name `outcome`.

        Raises:
            NodeLost: the node was lost.
            InfrastructureError: processes of the run are still running.
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
