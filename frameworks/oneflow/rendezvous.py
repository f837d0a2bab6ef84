"""How the ranks of a case meet, which OneFlow does when it is imported, and how they part.

OneFlow waits for the other ranks without a limit and holds Python's global lock meanwhile, so that no thread
of ours could act. Python's own watchdog ends the process and shows where it stood.
"""

import faulthandler
import os
import socket
import traceback
from typing import Callable, Mapping

from frameworks.common.case import RENDEZVOUS_SECONDS, rank_from_environment
from frameworks.common.program import exit_at_once


class RendezvousError(Exception):
    """What keeps the ranks from meeting."""


def meet(environment: Mapping[str, str]) -> None:
    """Import OneFlow, which meets the ranks that the environment names, within RENDEZVOUS_SECONDS.

    A single rank has none to wait for.

    Raises:
        RendezvousError: rank 0 cannot serve at the master's port.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        return
    if environment["RANK"] == "0":
        _refuse_a_taken_port(int(environment["MASTER_PORT"]))
    faulthandler.dump_traceback_later(RENDEZVOUS_SECONDS, exit=True)
    import oneflow  # noqa: F401, PLC0415 - this is the meeting

    faulthandler.cancel_dump_traceback_later()


def _refuse_a_taken_port(port: int) -> None:
    """OneFlow would end with SIGABRT and forty lines."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RendezvousError(f"rank 0 cannot serve the other ranks at port {port}: {reason}") from None


def run_and_leave(program: Callable[[], None]) -> None:
    """Run this rank's program; if it fails on one of several ranks, end the process at once.

    OneFlow's shutdown waits for the other ranks, which wait for this one: the failure would show only when
    one of them gives up, and as that one's.
    """
    try:
        program()
    except Exception:
        if rank_from_environment().world_size == 1:
            raise
        traceback.print_exc()
        exit_at_once(1)
