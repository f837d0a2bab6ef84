"""Events of a run as lines on standard output, which nobody may be there to read. For the supervisor."""

import contextlib
import json
import os
import queue
import threading
from typing import Any, Optional

ECHO_LINES, ECHO_CHARACTERS, ECHO_CLOSE_SECONDS = 1000, 4000, 1.0


class Echo:
    """The JSON lines on standard output, for watching only.

    A thread writes them: a reader that is slow or gone loses lines and holds up nothing.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[Optional[bytes]] = queue.Queue(ECHO_LINES)
        self._thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Begin to write; after the ranks were forked, as a fork does not go with threads."""
        self._thread.start()

    def send(self, event: str, *, wait: float = 0.0, **content: Any) -> None:
        """Send a line if there is room for it within `wait` seconds."""
        line = json.dumps(dict(content, event=event)).encode() + b"\n"
        with contextlib.suppress(queue.Full):
            self._lines.put(line, block=wait > 0, timeout=wait or None)

    def close(self) -> None:
        """Give the reader a moment to take what is left."""
        try:
            self._lines.put(None, timeout=ECHO_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(ECHO_CLOSE_SECONDS)

    def _write(self) -> None:
        line = self._lines.get()
        while line is not None:
            try:
                while line:
                    line = line[os.write(1, line) :]
            except OSError:
                return  # the reader is gone; the queue fills up and the rest is dropped
            line = self._lines.get()
