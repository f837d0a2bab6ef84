"""Ctrl-C and SIGTERM: what is stopped, what is kept, what is said, and that nothing is left."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest
from processes import until, until_line
from sweep_lab import ENDLESS_GRACE

if TYPE_CHECKING:
    from sweep_lab import SweepLab

# A good run, then one that goes on for a long time beside a grandchild in a session of its own.
ENDLESS = {"step_seconds": 1.0, "fault": "loose", "fault_step": 1}
LONG = {"warmup_iterations": 1, "measured_iterations": 6000, "repeats": 1}


def interrupted_run(lab: SweepLab) -> subprocess.Popen[str]:
    """dlperf in the second of two runs, the first of which is stored."""
    lab.write(
        order="sequential",
        include=[{"batch_size_per_device": 3, "options": {"numpy": {**ENDLESS, "step_seconds": 0.7}}}],
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1},
    )
    process = lab.start()
    until(lambda: len(lab.stored()) == 1)
    until(
        lambda: any(
            (folder / "logs").exists()
            and not (folder / "result.json").exists()
            and b'"step": 1' in (folder / "logs" / "rank0.log").read_bytes()
            for folder in lab.run_folders()
        )
    )
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_the_run_and_keeps_what_is_done(
    lab: SweepLab, number: signal.Signals, code: int
) -> None:
    process = interrupted_run(lab)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert lab.left() == set()
    assert [result.case.batch_size_per_device for result in lab.stored()] == [2]
    assert "stopping the run and its processes; repeat to kill them at once" in errors
    assert errors.splitlines()[-1] == (
        "stopped; completed runs are kept in results/tiny; the same command resumes"
    )
    again = lab.run()
    assert again.returncode == 0
    assert sorted(result.case.batch_size_per_device for result in lab.stored()) == [2, 3]


@pytest.mark.slow
def test_the_second_signal_kills_at_once(lab: SweepLab) -> None:
    lab.patch(ENDLESS_GRACE)
    lab.write(options=ENDLESS, measure=LONG)
    process = lab.start()
    until(lambda: lab.logged('"step": 1'))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    until_line(process, "repeat to kill them at once")
    process.send_signal(signal.SIGINT)
    until_line(process, "repeat to exit without waiting")
    assert process.wait() == 130
    assert lab.left() == set()
    assert lab.stored() == []


def test_a_signal_while_an_environment_is_checked_ends_dlperf(lab: SweepLab) -> None:
    slow = lab.folder / "slow-python"
    slow.write_text(f"#!/bin/sh\ntouch {lab.folder}/asked\nexec sleep 600\n")
    slow.chmod(0o755)
    lab.write(frameworks=[{"name": "numpy", "python": str(slow)}])
    process = lab.start(start_new_session=True)
    until((lab.folder / "asked").exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate()
    assert process.returncode == 130
    assert lab.stored() == []


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(lab: SweepLab) -> None:
    """The terminal sends SIGINT to its whole foreground; only dlperf may act on it."""
    lab.write(options=ENDLESS, measure=LONG)
    lab.variables["TERM"] = "xterm-256color"
    controller, terminal = pty.openpty()

    def take_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = lab.start(
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=take_the_terminal,
    )
    os.close(terminal)
    shown = b""

    def rate_is_shown() -> bool:
        nonlocal shown
        if select.select([controller], [], [], 0)[0]:
            shown += os.read(controller, 65536)
        return b"samples/s" in shown

    until(rate_is_shown)
    os.write(controller, b"\x03")
    shown += until_closed(controller)
    assert process.wait() == 130
    assert b"stopping the run" in shown
    assert b"0/1" in shown
    assert lab.left() == set()
    assert lab.stored() == []


def until_closed(controller: int) -> bytes:
    shown = b""
    while True:
        try:
            data = os.read(controller, 65536)
        except OSError:  # every process has closed the terminal
            return shown
        if not data:
            return shown
        shown += data


def test_the_reader_of_dlperf_is_gone(lab: SweepLab) -> None:
    """`dlperf run ... | head`: the runs are made all the same."""
    lab.write()
    process = lab.start()
    assert process.stdout is not None
    process.stdout.close()
    process.wait()
    assert [result.status.value for result in lab.stored()] == ["ok"]
