"""A run under its supervisors, one per node: leases, events, Ctrl-C, and the outcomes of all nodes in one."""

import contextlib
import json
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from dlperf.logs.endings import outcome_of
from dlperf.results.run_outcome import memory_kill
from dlperf.running.transports.base import Connection

_BEAT, _STOP, _KILL = b".", b"s", b"k"
_BEATS_PER_LEASE = 4
_TICK_SECONDS = 0.5
_MOST_QUEUED_EVENTS = 10_000
# Longer than any line that the supervisor sends: noise of another program on the same stream.
_LONGEST_LINE = 1 << 20
_NO_CAUSE = frozenset({"completed", "stopped"})
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# From SIGKILL to the end of a process that is not stuck in the kernel.
_LAST_SECONDS = 15.0
_JOIN_SECONDS = 5.0
_GIVE_UP = 3  # signals until dlperf exits without waiting

Content = dict[str, Any]
# The node (by node rank) and its event; None when the node sends no more.
NodeEvent = tuple[int, Content | None]
# A byte for the supervisors of all nodes except the one in the second place.
Order = tuple[bytes, int | None]


class SupervisedRun:
    """The supervisors at the other ends of the connections, until all have ended.

    One thread writes to all of them, and one thread per connection reads. Closing ends a run in progress.
    """

    def __init__(
        self, connections: Sequence[Connection], *, lease_seconds: float, limit_seconds: float | None = None
    ) -> None:
        """`limit_seconds` is when the supervisors must have ended, or they are killed; None: never."""
        self._connections = tuple(connections)
        self._deadline = math.inf if limit_seconds is None else time.monotonic() + limit_seconds
        self.overtime = False
        self._interval = lease_seconds / _BEATS_PER_LEASE
        # Only one thread writes, so that a signal handler never waits for a lock that its own thread holds.
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._events: queue.Queue[NodeEvent] = queue.Queue(_MOST_QUEUED_EVENTS)
        self._closing = threading.Event()
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
        self._closing.set()
        self._orders.put(None)
        for connection in self._connections:
            connection.hang_up()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)  # one that reads from a stuck supervisor stays
        for connection in self._connections:
            connection.close()

    def stop(self) -> None:
        """Ask the ranks to end, and kill them after the grace period. Safe in a signal handler."""
        self._orders.put((_STOP, None))

    def kill(self, *, except_node: int | None = None) -> None:
        """Kill all processes of the run at once, except on one node. Safe in a signal handler."""
        self._orders.put((_KILL, except_node))
        if except_node is None:
            self._deadline = min(self._deadline, time.monotonic() + _LAST_SECONDS)

    @property
    def removal_command(self) -> str:
        """The commands of all connections; see Connection."""
        return "; ".join(connection.removal_command for connection in self._connections)

    def events(self) -> Iterator[NodeEvent | None]:
        """The supervisors' events until the last supervisor ends; None if none arrives for half a second.

        InfrastructureError where one does not end even by SIGKILL, and this machine cannot go on.
        """
        connected = set(range(len(self._connections)))
        while connected:
            try:
                node_event = self._events.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                node_event = None
                if self._deadline > time.monotonic() + _LAST_SECONDS and any(
                    self._connections[node].has_ended() for node in connected
                ):
                    self._deadline = time.monotonic() + _LAST_SECONDS  # something keeps its output open
            if node_event is not None and node_event[1] is None:
                connected.remove(node_event[0])
            elif time.monotonic() > self._deadline:
                self._end_what_stands_still([self._connections[node] for node in connected])
            yield node_event

    def _end_what_stands_still(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            if self.overtime:
                connection.give_up()
            else:
                connection.kill_tree()
        self.overtime, self._deadline = True, time.monotonic() + _LAST_SECONDS

    def _write(self) -> None:
        """Send the orders, and renew the leases in between."""
        order: Order | None = (_BEAT, None)
        while order is not None:
            byte, except_node = order
            for node, connection in enumerate(self._connections):
                if node != except_node:
                    with contextlib.suppress(OSError, ValueError):  # it has ended, as its reader notices too
                        connection.send(byte)
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

    def _put(self, node_event: NodeEvent) -> None:
        """Wait for room in the queue, unless nobody takes events any more."""
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._events.put(node_event, timeout=_TICK_SECONDS)
                return


class Interrupted(KeyboardInterrupt):
    """The user or the batch system wants dlperf to end; `exit_code` is what the shell expects."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class Interrupts:
    """Handles signals, by default SIGINT and SIGTERM, in the main thread while the block `handled` runs.

    Runs are shielded and attached in any thread; several may be in progress at once.
    """

    def __init__(self, say: Callable[[str], None], *, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self._say, self._signals = say, signals
        self._runs: dict[int, SupervisedRun | None] = {}  # by thread; None while a run is being started
        self._number: int | None = None
        self._count = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Install the signal handlers; restores the previous ones at the end."""
        previous = {number: signal.signal(number, self._on_signal) for number in self._signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A signal does not break off the block; it stops the attached run."""
        thread = threading.get_ident()
        nested = thread in self._runs
        self._runs.setdefault(thread, None)
        try:
            yield
        finally:
            if nested:
                self._runs[thread] = None
            else:
                del self._runs[thread]

    def attach(self, run: SupervisedRun) -> None:
        """Let signals stop `run`, including a signal that came before; call inside `shielded`."""
        self._runs[threading.get_ident()] = run
        if self._number is not None:
            run.stop()

    def check(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self._number is not None:
            raise Interrupted(self._number)

    @property
    def pending(self) -> bool:
        """Whether there was a signal."""
        return self._number is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self._number = number
        # Copied in one step: the threads that run cases keep changing the dictionary.
        runs = [run for run in list(self._runs.values()) if run is not None]
        if not self._runs or (not runs and self._count > 1):
            raise Interrupted(number)
        if self._count == 1:
            self._say("stopping the run and its processes; repeat to kill them at once")
        elif self._count < _GIVE_UP:
            self._say("killing the processes of the run; repeat to exit without waiting for them")
        if runs and self._count >= _GIVE_UP:
            self._give_up(runs, number)
        for run in runs:  # a run that is still being started is stopped when it is attached
            (run.stop if self._count == 1 else run.kill)()

    def _give_up(self, runs: list[SupervisedRun], number: int) -> NoReturn:
        commands = "; ".join(run.removal_command for run in runs)
        self._say(f"exiting without waiting; if processes of the run are left, end them with: {commands}")
        os._exit(128 + number)


@dataclass(kw_only=True)
class FailureTracker:
    """Which node and rank of a run failed first, in the order in which events arrive; clocks may differ."""

    first_failed_node: int | None = None  # node rank
    first_failed_rank: int | None = None

    def on_event(self, node: int, event: Content) -> None:
        """Record a supervisor's event."""
        kind = event.get("event")
        if kind == "rank_exit" and (event.get("exit_code") != 0 or event.get("signal") is not None):
            if self.first_failed_node is None:
                self.first_failed_rank = event.get("rank")
            self._failed(node)
        elif kind == "finished" and event["outcome"].get("reason") != "completed":
            self._failed(node)

    def on_exit(self, node: int, *, code: int | None) -> None:
        """Record a supervisor's exit; `code` is None if its node was lost."""
        if code != 0:
            self._failed(node)

    def _failed(self, node: int) -> None:
        if self.first_failed_node is None:
            self.first_failed_node = node


def merge_outcomes(
    outcomes: list[Content | None],
    *,
    failures: FailureTracker,
    lost: dict[int, str],
    hosts: list[str],
    standstill: tuple[str, str] | None = None,
) -> Content | None:
    """One `outcome.json` from those of all nodes; None if the node that failed first has left none.

    `outcomes` and `hosts` are by node rank, None if a supervisor has left nothing; `lost` nodes, with why,
    are the cause of whatever failed elsewhere; `standstill` is reason and detail if a supervisor stood still.
    """
    written = [outcome for outcome in outcomes if outcome is not None]
    first_node = failures.first_failed_node
    cause = outcomes[first_node] if first_node is not None else (written[0] if written else None)
    if cause is not None and cause["reason"] == "stopped":  # by us, because of a failure elsewhere
        cause = next((outcome for outcome in written if outcome["reason"] not in _NO_CAUSE), cause)
    out_of_memory = next(filter(_may_be_out_of_memory, written), None)
    if out_of_memory is not None:  # failures elsewhere followed from it, even if they arrived first
        cause = out_of_memory
    if lost:
        reason, detail = "lost_node", "; ".join(lost[node] for node in sorted(lost))
    elif standstill is not None:
        reason, detail = standstill
    elif cause is None:
        return None
    else:
        reason, detail = cause["reason"], cause["detail"]
    first_rank = failures.first_failed_rank if out_of_memory is None else out_of_memory["first_failed_rank"]
    if first_rank is None and cause is not None:
        first_rank = cause["first_failed_rank"]
    held_by = [outcome["memory_held_by"] for outcome in written if "memory_held_by" in outcome]
    return {
        "schema_version": 1,
        "reason": reason,
        "detail": detail,
        "hosts": [
            outcome["host"] if outcome else name for outcome, name in zip(outcomes, hosts, strict=True)
        ],
        "started_at": min((outcome["started_at"] for outcome in written), default=None),
        "seconds": max((outcome["seconds"] for outcome in written), default=None),
        "ranks": sorted(
            (rank for outcome in written for rank in outcome["ranks"]), key=lambda rank: rank["rank"]
        ),
        "first_failed_rank": first_rank,
        "oom_kills": cause["oom_kills"] if cause else 0,
        **({"group_oom_kills": cause["group_oom_kills"]} if cause and "group_oom_kills" in cause else {}),
        "cpu_seconds": [outcome.get("cpu_seconds") if outcome else None for outcome in outcomes],
        "processes_left": [pid for outcome in written for pid in outcome["processes_left"]],
        **({"memory_held_by": held_by[0]} if held_by else {}),
    }


def _may_be_out_of_memory(content: Content) -> bool:
    """Whether the kernel killed a rank of a node for lack of memory, or may have."""
    outcome = outcome_of(content)
    if outcome is None or outcome.reason != "rank_failed":
        return False
    return memory_kill(outcome, first=outcome.first_failed_rank) is not None
