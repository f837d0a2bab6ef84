"""The frames of a step against frameworks/node/channels.py, started here without a batch system around it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from processes import until

from dlperf.running.transports.session import LinkError, errors_of, send_all
from dlperf.running.transports.step_link import StepChannel, StepLink
from frameworks.node import channels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = 8 << 20  # more than windows and pipes hold


def connected(*prefix: str, seconds: float = 60) -> StepLink:
    return StepLink(prefix, python=sys.executable, limit_seconds=seconds)


@pytest.fixture
def link() -> Iterator[StepLink]:
    made = connected()
    yield made
    made.close()


def python(program: str, *words: str) -> list[str]:
    return [sys.executable, "-I", "-c", program, *words]


def test_a_command_has_its_own_streams_and_exit_code(link: StepLink) -> None:
    channel = link.start(["sh", "-c", "cat; echo oops >&2; exit 7"])
    channel.sendall(b"a\n")
    assert channel.recv(100) == b"a\n"
    assert not channel.exit_status_ready()
    channel.shutdown_write()
    assert channel.recv(100) == b""
    assert (channel.recv_exit_status(), errors_of(channel)) == (7, "oops")


def test_a_command_that_cannot_be_started_says_why(link: StepLink) -> None:
    channel = link.start(["/nowhere/to/be/found"])
    assert channel.recv(1) == b""
    assert channel.recv_exit_status() == 127
    assert "No such file or directory: '/nowhere/to/be/found'" in errors_of(channel)


def test_a_signal_is_minus_one_as_with_ssh(link: StepLink) -> None:
    assert link.start(["sh", "-c", "kill -9 $$"]).recv_exit_status() == -1


def test_a_command_that_nobody_reads_waits_and_holds_up_no_other(link: StepLink, tmp_path: Path) -> None:
    done = tmp_path / "done"
    program = (
        "import sys; sys.stdout.write('x' * int(sys.argv[1])); sys.stdout.flush(); open(sys.argv[2], 'w')"
    )
    flood = link.start(python(program, str(BIG), str(done)))
    for _ in range(20):
        assert link.start(["echo", "hello"]).makefile("rb").read() == b"hello\n"
    assert not done.exists()
    assert flood.makefile("rb").read() == b"x" * BIG
    assert flood.recv_exit_status() == 0
    assert done.exists()


def test_errors_flow_although_nobody_reads_them_and_their_end_is_kept(link: StepLink) -> None:
    program = "import sys; sys.stderr.write('x' * int(sys.argv[1]) + ' the end')"
    channel = link.start(python(program, str(BIG)))
    assert channel.recv_exit_status() == 0
    assert errors_of(channel).endswith(" the end")


def test_a_command_that_does_not_read_holds_up_no_other(link: StepLink) -> None:
    """What is sent to it waits until it is closed."""
    deaf = link.start(["sleep", "600"])
    failures: list[OSError] = []

    def send() -> None:
        try:
            deaf.sendall(b"x" * BIG)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert link.start(["echo", "hello"]).makefile("rb").read() == b"hello\n"
    assert thread.is_alive()
    deaf.close()
    thread.join()
    assert [str(failure) for failure in failures] == ["the command has ended"]


def test_a_file_arrives_whole(link: StepLink, tmp_path: Path) -> None:
    sent, come = tmp_path / "sent", tmp_path / "come"
    sent.write_bytes(os.urandom(BIG))
    with sent.open("rb") as stream:
        assert send_all(link.start(["sh", "-c", f"cat > {come}"]), stream) == (0, "")
    assert come.read_bytes() == sent.read_bytes()


def test_many_commands_at_once_keep_their_output(link: StepLink) -> None:
    channels = [link.start(["sh", "-c", f"echo {number}; cat"]) for number in range(40)]
    for channel in channels:
        channel.shutdown_write()
    texts = [channel.makefile("rb").read() for channel in channels]
    assert texts == [b"%d\n" % number for number in range(40)]


def test_a_reader_that_is_closed_ends_what_writes_without_end(link: StepLink) -> None:
    channel = link.start(["yes"])
    assert channel.recv(2) == b"y\n"
    channel.close()
    assert channel.recv_exit_status() == -1  # SIGPIPE


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_command_that_has_ended_is_not_told_to_close(*, has_ended: bool) -> None:
    """Behind such a small frame TCP would hold the next command back for 40 ms."""
    sent: list[tuple[int, bytes]] = []
    channel = StepChannel(["true"], sent.extend)
    assert not channel.exit_status_ready()
    if has_ended:
        channel.take(channels.EXIT, b"0")
    channel.close()
    told = [channels.OPEN] if has_ended else [channels.OPEN, channels.CLOSE]
    assert [kind for kind, _ in sent] == told


def test_a_read_may_have_a_limit(link: StepLink) -> None:
    channel = link.start(["sleep", "600"])
    channel.settimeout(0.01)
    with pytest.raises(TimeoutError):
        channel.recv(1)
    channel.close()


def test_the_end_of_the_link_is_the_end_of_every_lease(tmp_path: Path) -> None:
    link = connected()
    ended = tmp_path / "ended"
    channel = link.start(["sh", "-c", f"echo up; cat; touch {ended}"])
    assert channel.recv(3) == b"up\n"
    link.close()
    until(ended.exists, what="its standard input has ended")
    assert not link.is_up
    assert (channel.recv(1), channel.recv_exit_status()) == (b"", -1)


def test_a_step_that_is_killed_ends_what_waits_for_it(link: StepLink) -> None:
    channel = link.start(["sleep", "1"])
    os.kill(link._process.pid, signal.SIGKILL)
    assert channel.recv(1) == b""
    assert channel.recv_exit_status() == -1
    until(lambda: not link.is_up, what="the end of its output is noticed")
    with pytest.raises(LinkError, match="the step has ended"):
        link.start(["true"])
    with pytest.raises(OSError, match="ended"):
        channel.sendall(b"x")


@pytest.mark.parametrize(
    ("prefix", "seconds", "message"),
    [
        (["sh", "-c", "echo srun: error: no such node >&2; exit 1", "sh"], 60, "srun: error: no such node"),
        (["sh", "-c", "exit 1", "sh"], 60, "the step ended without a message"),
        (["sh", "-c", "exec cat 3>&1 > /dev/null", "sh"], 0.2, r"the step did not begin within 0\.2 s"),
        (["/nowhere/srun"], 60, "/nowhere/srun cannot be started: No such file or directory"),
        (
            ["sh", "-c", 'echo Welcome to our cluster; exec "$@"', "sh"],
            60,
            "something prints 'Welcome t' where dlperf's program was to answer",
        ),
    ],
)
def test_a_step_that_does_not_begin_says_why(prefix: list[str], seconds: float, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        connected(*prefix, seconds=seconds)


def test_noise_on_the_stream_later_is_the_end_of_the_step() -> None:
    """Another program of the node writes between the frames."""
    link = connected()
    channel = link.start(["sh", "-c", "echo a lot of noise > /proc/$PPID/fd/1; sleep 600"])
    assert channel.recv_exit_status() == -1
    assert not link.is_up
    link.close()
