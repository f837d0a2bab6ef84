"""The first words with a node: what its login shell and its Python may do to them."""

from __future__ import annotations

import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from paramiko.channel import Channel

from dlperf.running.transports import session
from dlperf.running.transports.session import Refusal, attend_command, greet, shipped_code

# What Python 2.7 says to an option that it does not know.
PYTHON_2 = r"""#!/bin/sh
echo "Unknown option: $1" >&2
echo "usage: $0 [option] ... [-c cmd | -m mod | file | -] [arg] ..." >&2
echo "Try \`python -h' for more information." >&2
exit 2
"""


class ShellChannel:
    """The part of a paramiko channel that greeting uses, to a shell of this machine."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._timeout: float | None = None

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def recv(self, count: int) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self._timeout)[0]:
            raise TimeoutError
        return self.process.stdout.read1(count)  # type: ignore[attr-defined]

    def recv_stderr(self, count: int) -> bytes:
        assert self.process.stderr is not None
        return self.process.stderr.read1(count)  # type: ignore[attr-defined]

    def sendall(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Channel]]:
    """Starts dlperf's program behind the commands of a startup file."""
    with ExitStack() as stack:

        def start(startup: str, *, python: str = sys.executable) -> Channel:
            command = attend_command(python, work=str(tmp_path / "work"), code=shipped_code())
            channel = ShellChannel(f"{startup}\n{shlex.join(command)}")
            stack.enter_context(channel.process)
            stack.callback(channel.process.kill)
            return cast("Channel", channel)

        yield start


def refusal(channel: Channel, *, python: str = sys.executable) -> str:
    with pytest.raises(Refusal) as caught:
        greet(channel, code=shipped_code(), python=python)
    return str(caught.value)


def test_a_quiet_startup_file_changes_nothing(started: Callable[..., Channel]) -> None:
    assert greet(started("true"), code=shipped_code(), python=sys.executable) == b""


@pytest.mark.parametrize("startup", ["sleep 600", "read line", "cat"], ids=lambda startup: startup.split()[0])
def test_a_startup_file_that_sleeps_or_reads_is_named_after_the_limit(
    started: Callable[..., Channel], monkeypatch: pytest.MonkeyPatch, startup: str
) -> None:
    monkeypatch.setattr(session, "_GREETING_SECONDS", 1.0)
    assert refusal(started(startup)) == (
        "its login shell or the prefix started no command within 1 s; let startup files (such as ~/.bashrc) "
        "neither sleep nor read standard input where there is no terminal"
    )


def test_a_startup_file_that_prints_is_quoted(started: Callable[..., Channel]) -> None:
    assert "prints 'welcome' before any command" in refusal(started("echo welcome"))


def test_an_interpreter_that_is_far_too_old_is_told_by_what_is_needed(
    started: Callable[..., Channel], tmp_path: Path
) -> None:
    python = tmp_path / "python2.7"
    python.write_text(PYTHON_2)
    python.chmod(0o755)
    assert refusal(started("true", python=str(python)), python=str(python)) == (
        f"{python} does not start dlperf there: dlperf needs Python 3.8 or newer on the node, this is older "
        "than 3.4"
    )
