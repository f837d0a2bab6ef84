"""Several programs behind one pair of pipes: what sshd does for ssh, for a step of a batch system.

It is sent as text to a Python of the node, so it uses the standard library alone. Standard input and output
carry frames: channel (4 bytes), kind (1), length (4), content. To the node: OPEN (the argument list as JSON),
DATA (for the program's standard input), END (its end), CLOSE (nobody reads the program's output any more).
From the node: DATA (of its standard output), ERRORS (of its standard error), END (of both, where the program
goes on), EXIT (its exit code, negative for a signal), or FAILED (it could not be started: why). The first
frame from the node is HELLO on channel 0. In both directions TAKEN says how many bytes of a channel were
used, and no more than WINDOW_BYTES of it are on the way: a program that does not read, or is not read, holds
up no other.

At the end of standard input every program's pipes are closed, and this process ends: programs that hold a
lease end by themselves.
"""

import json
import os
import queue
import struct
import subprocess
import threading
from typing import Any, Dict, List, Optional

OPEN, DATA, END, CLOSE, ERRORS, EXIT, FAILED, HELLO, TAKEN = range(1, 10)
HEADER = struct.Struct("!IBI")
CHUNK_BYTES = 1 << 16
WINDOW_BYTES = 1 << 20
# Said in large pieces: behind a small frame TCP may hold the next one back for 40 ms.
TAKEN_BYTES = WINDOW_BYTES // 4
# A program whose output has ended has nearly always ended, and then its exit code says both.
EXIT_SECONDS = 0.1


class Window:
    """How many bytes may be sent before some were taken."""

    def __init__(self) -> None:
        self._room, self._open, self._changed = WINDOW_BYTES, True, threading.Condition()

    def wait(self, size: int) -> bool:
        """Wait until `size` bytes may be sent; whether anybody still takes them."""
        with self._changed:
            while self._open and self._room < size:
                self._changed.wait()
            self._room -= size
            return self._open

    def taken(self, size: int) -> None:
        """Make room."""
        with self._changed:
            self._room += size
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


class Program:
    """A program, the window of its output, and what waits for its standard input (None: its end)."""

    def __init__(self, argv: List[str]) -> None:
        # A session of its own, as below sshd: a signal to its group reaches no other.
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.window = Window()
        self.input: queue.Queue[Optional[bytes]] = queue.Queue()


class Programs:
    """The programs that were started and have not ended, by channel."""

    def __init__(self) -> None:
        self._writing = threading.Lock()
        self._programs: Dict[int, Program] = {}

    def send(self, channel: int, kind: int, content: bytes = b"") -> None:
        """Write a frame; without a reader this process ends."""
        data = HEADER.pack(channel, kind, len(content)) + content
        try:
            with self._writing:
                while data:
                    data = data[os.write(1, data) :]
        except OSError:
            os._exit(0)

    def take(self, channel: int, kind: int, content: bytes) -> None:
        """Do what a frame asks for."""
        if kind == OPEN:
            self._open(channel, json.loads(content.decode()))
            return
        program = self._programs.get(channel)
        if program is None:
            return
        if kind == DATA:
            program.input.put(content)
        elif kind == TAKEN:
            program.window.taken(int(content))
        elif kind in (END, CLOSE):
            program.input.put(None)
            if kind == CLOSE:
                program.window.close()

    def _open(self, channel: int, argv: List[str]) -> None:
        try:
            program = Program(argv)
        except (OSError, ValueError) as error:
            # In a thread, as everything else that writes: who reads frames must never wait for a reader.
            words = (channel, FAILED, str(error).encode())
            threading.Thread(target=self.send, args=words, daemon=True).start()
            return
        self._programs[channel] = program
        process = program.process
        readers = [
            threading.Thread(target=self._read, args=(channel, program, stream, kind), daemon=True)
            for stream, kind in ((process.stdout, DATA), (process.stderr, ERRORS))
        ]
        others = [
            threading.Thread(target=self._write, args=(channel, program), daemon=True),
            threading.Thread(target=self._end, args=(channel, program, readers), daemon=True),
        ]
        for thread in readers + others:
            thread.start()

    def _write(self, channel: int, program: Program) -> None:
        """Give the program its standard input; what it does not read is taken too."""
        stream, taken = program.process.stdin, 0
        while True:
            data = program.input.get()
            taken += len(data or b"")
            try:
                if data is None:
                    stream.close()
                    return
                while data:
                    data = data[stream.write(data) :]
            except (OSError, ValueError):  # it has ended, or closed its input
                pass
            if taken >= TAKEN_BYTES:
                self.send(channel, TAKEN, str(taken).encode())
                taken = 0

    def _read(self, channel: int, program: Program, stream: Any, kind: int) -> None:
        with stream:
            while True:
                data = os.read(stream.fileno(), CHUNK_BYTES)
                if not data or not program.window.wait(len(data)):
                    return
                self.send(channel, kind, data)

    def _end(self, channel: int, program: Program, readers: List[threading.Thread]) -> None:
        for reader in readers:
            reader.join()
        try:
            code = program.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(channel, END)
            code = program.process.wait()
        program.input.put(None)
        self._programs.pop(channel, None)
        self.send(channel, EXIT, str(code).encode())


def read_exactly(size: int) -> Optional[bytes]:
    """Exactly `size` bytes of standard input; None if it ends before."""
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    """Carry frames until standard input ends."""
    programs = Programs()
    programs.send(0, HELLO)
    while True:
        header = read_exactly(HEADER.size)
        if header is None:
            os._exit(0)
        channel, kind, size = HEADER.unpack(header)
        content = read_exactly(size)
        if content is None:
            os._exit(0)
        programs.take(channel, kind, content)


if __name__ == "__main__":
    main()
