"""A run under its supervisors, one a node: keep their leases, watch what they say, stop them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from dlperf.results.run_outcome import memory_kill
from dlperf.results.schema import outcome_of
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


# What several supervisors say about one run, as one story: who failed first, what came of it. Pure.


Content = dict[str, Any]
_NO_CAUSE = frozenset({"completed", "stopped"})


@dataclass(kw_only=True)
class Course:
    """The events of a run's supervisors in the order of their arrival here; the nodes' clocks may differ.

    `node` counts from 0, by node rank. `broken` is the node whose trouble came first, None while none is.
    """

    broken: int | None = None
    first_failed_rank: int | None = None

    def hear(self, node: int, event: Content) -> None:
        """Take note of what a supervisor says."""
        kind = event.get("event")
        if kind == "rank_exit" and (event.get("exit_code") != 0 or event.get("signal") is not None):
            if self.broken is None:
                self.first_failed_rank = event.get("rank")
            self._breaks(node)
        elif kind == "finished" and event["outcome"].get("reason") != "completed":
            self._breaks(node)

    def ended(self, node: int, *, code: int | None) -> None:
        """Take note of a supervisor's end; `code` None where its node was lost."""
        if code != 0:
            self._breaks(node)

    def _breaks(self, node: int) -> None:
        if self.broken is None:
            self.broken = node


def combined(
    outcomes: list[Content | None], *, course: Course, lost: dict[int, str], hosts: list[str]
) -> Content | None:
    """One `outcome.json` of those of all nodes, by node rank; None where the node at fault has left none.

    Args:
        outcomes: what each node's supervisor has left, None where it left nothing.
        course: what was heard meanwhile.
        lost: nodes that were lost, and how. A lost node is the cause of whatever failed elsewhere.
        hosts: names, for nodes that say none.
    """
    told = [outcome for outcome in outcomes if outcome is not None]
    cause = outcomes[course.broken] if course.broken is not None else (told[0] if told else None)
    if cause is not None and cause["reason"] == "stopped":  # by us, for what went wrong elsewhere
        cause = next((other for other in told if other["reason"] not in _NO_CAUSE), cause)
    starved = next(filter(_may_have_lacked_memory, told), None)
    if starved is not None:  # what failed elsewhere, even if that was heard of first, followed from it
        cause = starved
    if lost:
        reason, detail = "lost_node", "; ".join(lost[node] for node in sorted(lost))
    elif cause is None:
        return None
    else:
        reason, detail = cause["reason"], cause["detail"]
    first = course.first_failed_rank if starved is None else starved["first_failed_rank"]
    if first is None and cause is not None:
        first = cause["first_failed_rank"]
    held_by = [outcome["memory_held_by"] for outcome in told if "memory_held_by" in outcome]
    return {
        "schema_version": 1,
        "reason": reason,
        "detail": detail,
        "hosts": [
            outcome["host"] if outcome else name for outcome, name in zip(outcomes, hosts, strict=True)
        ],
        "started_at": min((outcome["started_at"] for outcome in told), default=None),
        "seconds": max((outcome["seconds"] for outcome in told), default=None),
        "ranks": sorted((rank for outcome in told for rank in outcome["ranks"]), key=lambda end: end["rank"]),
        "first_failed_rank": first,
        "oom_kills": cause["oom_kills"] if cause else 0,
        **({"group_oom_kills": cause["group_oom_kills"]} if cause and "group_oom_kills" in cause else {}),
        "cpu_seconds": [outcome.get("cpu_seconds") if outcome else None for outcome in outcomes],
        "processes_left": [pid for outcome in told for pid in outcome["processes_left"]],
        **({"memory_held_by": held_by[0]} if held_by else {}),
    }


def _may_have_lacked_memory(content: Content) -> bool:
    """Whether a kernel has killed a rank of a node for lack of memory, or may have."""
    outcome = outcome_of(content)
    if outcome is None or outcome.reason != "rank_failed":
        return False
    return memory_kill(outcome, first=outcome.first_failed_rank) is not None


# Ctrl-C and SIGTERM while a sweep runs: stop, then kill, then say what may be left.


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GIVE_UP = 3


class Interrupted(KeyboardInterrupt):
    """The user, or the batch system, wants an end; `exit_code` is what the shell expects to see."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class Interrupts:
    """Takes SIGINT and SIGTERM, in the main thread, while the block `taken` runs.

    Runs are held and attached in any thread; several may go on at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._runs: dict[int, SupervisedRun | None] = {}  # by thread; None while a run is being started
        self._number: int | None = None
        self._count = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals; the former handlers come back at the end."""
        former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """From here on a signal does not break off what the block does: it stops the run that is attached."""
        thread = threading.get_ident()
        former = thread in self._runs
        self._runs.setdefault(thread, None)
        try:
            yield
        finally:
            if former:
                self._runs[thread] = None
            else:
                del self._runs[thread]

    def attach(self, run: SupervisedRun) -> None:
        """Let signals stop `run`, one that has come already too; inside `held`."""
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
        # As a list at once: the threads that hold runs go on while this goes through them.
        runs = [run for run in list(self._runs.values()) if run is not None]
        if not self._runs or (not runs and self._count > 1):
            raise Interrupted(number)
        if self._count == 1:
            self._say("stopping this run and its processes; once more kills them at once")
        elif self._count < _GIVE_UP:
            self._say("killing the processes of this run; once more leaves without waiting for their end")
        if runs and self._count >= _GIVE_UP:
            self._give_up(runs, number)
        for run in runs:  # one that is being started is stopped then
            (run.stop if self._count == 1 else run.kill)()

    def _give_up(self, runs: list[SupervisedRun], number: int) -> NoReturn:
        commands = "; ".join(run.removal_command for run in runs)
        self._say(f"left without waiting; if something of the run is left, end it with: {commands}")
        os._exit(128 + number)
