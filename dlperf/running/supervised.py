"""A run under its supervisors, one a node: keep their leases, watch what they say, stop them."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from dlperf.running.transports.base import Connection

_BEAT, _STOP, _KILL = b".", b"s", b"k"
_BEATS_A_LEASE = 4
_TICK_SECONDS = 0.5
_MOST_WAITING = 10_000
# A line longer than any that the supervisor sends: noise of another program on the same stream.
_LONGEST_LINE = 1 << 20

# Which node (by node rank) says what; None is the end of what it says.
Heard = tuple[int, dict[str, Any] | None]
# What all supervisors are told, but for the one of the node that stands second.
Order = tuple[bytes, int | None]


class SupervisedRun:
    """What the supervisors at the other ends of the connections do, until all have ended.

    One thread writes to all, one a connection reads. Closing ends a run that still goes on.
    """

    def __init__(self, connections: Sequence[Connection], *, lease_seconds: float) -> None:
        self._connections = tuple(connections)
        self._interval = lease_seconds / _BEATS_A_LEASE
        # Only one thread writes, so that a signal handler never waits for a lock that its own thread holds.
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._arrived: queue.Queue[Heard] = queue.Queue(_MOST_WAITING)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, daemon=True)] + [
            threading.Thread(target=self._read, args=(node,), daemon=True) for node in range(len(connections))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._orders.put(None)
        for connection in self._connections:
            connection.hang_up()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def stop(self) -> None:
        """Ask the ranks to end, and kill them after the grace period. Safe in a signal handler."""
        self._orders.put((_STOP, None))

    def kill(self, *, spare: int | None = None) -> None:
        """Kill every process of the run at once, but for the node `spare`. Safe in a signal handler."""
        self._orders.put((_KILL, spare))

    @property
    def removal_command(self) -> str:
        """See Connection; all of them."""
        return "; ".join(connection.removal_command for connection in self._connections)

    def events(self) -> Iterator[Heard | None]:
        """What the supervisors say until the last one's end; None when nothing comes for half a second."""
        talking = len(self._connections)
        while talking:
            try:
                heard = self._arrived.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                yield None
                continue
            talking -= heard[1] is None
            yield heard

    def _write(self) -> None:
        """Carry out orders, and renew the leases while none comes."""
        order: Order | None = (_BEAT, None)
        while order is not None:
            what, spare = order
            for node, connection in enumerate(self._connections):
                if node != spare:
                    with contextlib.suppress(OSError, ValueError):  # it has ended; its reader sees the same
                        connection.send(what)
            try:
                order = self._orders.get(timeout=self._interval)
            except queue.Empty:
                order = (_BEAT, None)

    def _read(self, node: int) -> None:
        unfinished = b""
        while data := self._receive(node):
            *lines, unfinished = (unfinished + data).split(b"\n")
            unfinished = unfinished[-_LONGEST_LINE:]
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        self._put((node, event))
        self._put((node, None))

    def _receive(self, node: int) -> bytes:
        try:
            return self._connections[node].receive()
        except (OSError, ValueError):
            return b""

    def _put(self, heard: Heard) -> None:
        """Wait for room, unless nobody takes events any more."""
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._arrived.put(heard, timeout=_TICK_SECONDS)
                return
