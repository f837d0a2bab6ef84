"""Bring the ranks of a case together, which OneFlow does when it is imported, and waits for ever.

It holds Python's lock while it waits, so that no thread of ours could say a word: Python's own watchdog ends
the process, and shows where it stood.
"""

import faulthandler
import os
import socket
from typing import Mapping

from frameworks.common.case import RENDEZVOUS_SECONDS


class RendezvousError(Exception):
    """What is in the way of the ranks' meeting."""


def wait_for_the_other_ranks(environment: Mapping[str, str]) -> None:
    """Import OneFlow, which meets the ranks that the environment names, within RENDEZVOUS_SECONDS.

    A rank alone has none to wait for.

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
