"""A run under its supervisor: keep the lease, watch what it says, stop it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from dlperf.running.transports.base import Connection

_BEAT, _STOP, _KILL = b".", b"s", b"k"
_BEATS_A_LEASE = 4
_TICK_SECONDS = 0.5
_MOST_WAITING = 10_000
# A line longer than any that the supervisor sends: noise of another program on the same stream.
_LONGEST_LINE = 1 << 20


class SupervisedRun:
    """What the supervisor at the other end of a connection does, until it has ended.

    Two threads serve the connection: one renews the lease, one reads. Closing ends a run that still goes on.
    """

    def __init__(self, connection: Connection, *, lease_seconds: float) -> None:
        self._connection = connection
        self._interval = lease_seconds / _BEATS_A_LEASE
        self._arrived: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._keep_lease, self._read)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._connection.hang_up()
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def stop(self) -> None:
        """Ask the ranks to end, and kill them after the grace period. Safe in a signal handler."""
        self._tell(_STOP)

    def kill(self) -> None:
        """Kill every process of the run at once. Safe in a signal handler."""
        self._tell(_KILL)

    @property
    def removal_command(self) -> str:
        """See Connection."""
        return self._connection.removal_command

    def events(self) -> Iterator[dict[str, Any] | None]:
        """What the supervisor says until its end; None when it says nothing for half a second."""
        while True:
            try:
                event = self._arrived.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                yield None
                continue
            if event is None:
                return
            yield event

    def _tell(self, what: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended already, which was the wish
            self._connection.send(what)

    def _keep_lease(self) -> None:
        try:
            self._connection.send(_BEAT)
            while not self._over.wait(self._interval):
                self._connection.send(_BEAT)
        except (OSError, ValueError):
            return  # it has ended; the reading thread sees the same

    def _read(self) -> None:
        unfinished = b""
        while data := self._receive():
            *lines, unfinished = (unfinished + data).split(b"\n")
            unfinished = unfinished[-_LONGEST_LINE:]
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        self._put(event)
        self._put(None)

    def _receive(self) -> bytes:
        try:
            return self._connection.receive()
        except (OSError, ValueError):
            return b""

    def _put(self, event: dict[str, Any] | None) -> None:
        """Wait for room, unless nobody takes events any more."""
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._arrived.put(event, timeout=_TICK_SECONDS)
                return
