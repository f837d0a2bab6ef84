"""The supervisor on this machine, as a child process whose standard input is the lease."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING

from dlperf.errors import InfrastructureError
from dlperf.running.run_folder import LAUNCH_NAME, wait_until_deserted
from dlperf.shipped import shipped_folder

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 1 << 16
_LONGEST_COMPLAINT = 2000


class LocalConnection:
    """A supervisor that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        if process.stdin is None or process.stdout is None:
            raise ValueError("the supervisor's standard input and output must be pipes")
        self._input, self._output = process.stdin, process.stdout

    def receive(self) -> bytes:
        """See Connection."""
        return os.read(self._output.fileno(), _CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        """See Connection; a few bytes always fit into a pipe that the supervisor reads."""
        os.write(self._input.fileno(), data)

    def exit_code(self) -> int | None:
        """See Connection."""
        return self._process.wait()

    def complaint(self) -> str:
        """See Connection."""
        self._errors.seek(0)
        return " ".join(self._errors.read(_LONGEST_COMPLAINT).decode(errors="replace").split())

    def hang_up(self) -> None:
        """See Connection."""
        self._input.close()

    def close(self) -> None:
        """See Connection."""
        self.hang_up()
        self._process.wait()
        self._output.close()
        self._errors.close()

    @property
    def removal_command(self) -> str:
        """See Connection; the supervisor's other half ends the ranks when the first one is killed."""
        return f"kill -9 {self._process.pid}"


class LocalTransport:
    """Runs on this machine; the run folder is where it was written."""

    name = "local"

    def open(self, folder: Path, *, node_rank: int) -> LocalConnection:
        """See Transport."""
        del node_rank
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by the connection
        command = [sys.executable, "-I", str(shipped_folder("frameworks") / "supervisor.py"), LAUNCH_NAME]
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in the terminal reaches dlperf, which then decides
            )
        except OSError as error:
            errors.close()
            raise InfrastructureError(f"the supervisor cannot be started: {error}") from error
        return LocalConnection(process, errors)

    def bring_back(self, folder: Path, *, node_rank: int) -> None:
        """See Transport."""
        del node_rank
        wait_until_deserted(folder)
