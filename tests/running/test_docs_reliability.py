"""docs/reliability.md says what the code does."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from dlperf.adapters.registry import load_adapters
from dlperf.files import DISK_SECONDS
from dlperf.running.launch import (
    GRACE_SECONDS,
    INHERITED,
    LEASE_SECONDS,
    OVERTIME_SECONDS,
    SILENCE_SECONDS,
)
from dlperf.running.transports.session import LOSS_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()


def test_the_page_names_every_inherited_variable_in_order() -> None:
    section = PAGE.partition("## What a rank gets")[2].partition("The adapter's win")[0]
    adapters = load_adapters()
    engines = [adapters[name].inherited_variables for name in ("mxnet", "oneflow", "pytorch", "jax")]
    assert re.findall(r"`([A-Z_*]+)`", section) == [*INHERITED, *chain.from_iterable(engines)]


def test_the_page_gives_the_lease_and_the_grace_period() -> None:
    assert f"silent for {LEASE_SECONDS:g} s" in PAGE
    assert "3 s later SIGKILL" in PAGE
    assert GRACE_SECONDS == 3


def test_the_page_gives_the_bounds() -> None:
    assert f"| node powered off | `lost_node`, the node is set aside | {LOSS_SECONDS:g} s |" in PAGE
    assert (
        f"| link cut | `lost_node`, the node is set aside | {LOSS_SECONDS:g} s | {LOSS_SECONDS:g} s" in PAGE
    )
    assert f"for {SILENCE_SECONDS:g} s" in PAGE
    assert f"`limits.time` and {OVERTIME_SECONDS:g} s" in PAGE
    assert f"not answered for {DISK_SECONDS:g} s" in PAGE
