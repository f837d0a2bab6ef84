"""Ask a node: requests and answers over one channel, whose beats show that the node is still there."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from typing import TYPE_CHECKING, Any

from dlperf.running.transports.ssh_connection import errors_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from paramiko.channel import Channel

BEAT_SECONDS = 2.5
# A beat without an answer for so long: the node is lost. With the pause before it, at most 12.5 s.
SILENCE_SECONDS = 10.0
# When this process was stopped and goes on, the answer may lie in a buffer, unread.
_SECOND_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 120.0


class Silent(Exception):
    """The node does not answer any more; the text says how that was found."""


class Refusal(Exception):
    """The node answers that it cannot; the text says why."""


class Attendant:
    """`frameworks/node/attend.py` at the other end of a channel. Requests are asked one at a time."""

    def __init__(self, channel: Channel, *, lost: Callable[[str], None], unread: bytes = b"") -> None:
        """Take a channel of which `unread` was read already; `lost` is called once, from a thread."""
        self._channel, self._lost, self._unread = channel, lost, unread
        self._asking = threading.Lock()
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._beaten, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._beat)]
        for thread in self._threads:
            thread.start()

    def ask(
        self,
        op: str,
        *,
        told: Callable[[str], None] = lambda _text: None,
        limit_seconds: float | None = _ANSWER_SECONDS,
        **arguments: Any,
    ) -> dict[str, Any]:
        """The answer to a request; `told` gets lines of progress meanwhile.

        Raises:
            Refusal: the node says that it cannot.
            Silent: no answer, and there will be none.
        """
        with self._asking:
            self._send({"op": op, **arguments})
            while True:
                try:
                    answer = self._answers.get(timeout=limit_seconds)
                except queue.Empty:
                    raise Silent(f"no answer to {op!r} within {limit_seconds:g} s") from None
                if answer is None:
                    self._answers.put(None)  # for whoever asks next
                    raise Silent("the connection broke")
                if "progress" in answer:
                    told(str(answer["progress"]))
                elif "refused" in answer:
                    raise Refusal(str(answer["refused"]))
                else:
                    return answer

    def close(self) -> None:
        """Let it end; what it holds on the node is dropped."""
        self._end()
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _end(self) -> bool:
        """Wake the thread that beats, for its end; whether that was new."""
        was_over = self._over.is_set()
        self._over.set()
        self._beaten.set()
        return not was_over

    def _send(self, content: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(content).encode() + b"\n")
        except (OSError, EOFError) as error:
            raise Silent("the connection broke") from error

    def _read(self) -> None:
        unfinished = self._unread
        while True:
            *lines, unfinished = unfinished.split(b"\n")
            for line in lines:
                self._take(line)
            try:
                data = self._channel.recv(1 << 16)
            except (OSError, EOFError):
                data = b""
            if not data:
                break
            unfinished += data
        self._answers.put(None)
        if self._end():
            self._lost(errors_of(self._channel) or "the connection broke")

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "beat" in answer:
                self._beaten.set()
            elif isinstance(answer, dict):
                self._answers.put(answer)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._beaten.clear()
            if self._over.is_set():  # which woke us before, or does below
                return
            with contextlib.suppress(Silent):
                self._send({"beat": 1})
            if not self._beaten.wait(SILENCE_SECONDS) and not self._beaten.wait(_SECOND_LOOK_SECONDS):
                if self._end():
                    self._lost(f"no sign of life for {SILENCE_SECONDS:g} s")
                return
