"""What every way to a node provides: this machine, ssh, a batch system, a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


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


class Transport(Protocol):
    """The way to the nodes of a run."""

    @property
    def name(self) -> str:
        """Such as `local`."""

    def open(self, folder: Path, *, node_rank: int) -> Connection:
        """Bring the run folder, with its launch file, to a node and start the supervisor in it.

        Raises:
            InfrastructureError: the node cannot be reached, or the supervisor cannot be started there.
        """

    def bring_back(self, folder: Path, *, node_rank: int) -> None:
        """Bring the node's logs and outcome back into `folder`, after the supervisor's end.

        Raises:
            InfrastructureError: the node was lost, or processes of the run are still there.
        """
