"""Fixtures for every room."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable


# No deadline: how long an example takes depends on what else the machine does.
settings.register_profile("full", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("full")

# A shell starts what it runs in the background with Ctrl-C ignored, and so would be what the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Their tests start many processes each.
SLOW_FOLDERS = ("environments", "lab", "running", "supervisor")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without slow tests these folders hold none: their modules need not be imported."""
    return True if "not slow" in config.option.markexpr and collection_path.name in SLOW_FOLDERS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, trainings last: what is broken at heart is known at once."""
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: ("engine" in item.keywords, "slow" in item.keywords))


@pytest.fixture(scope="session")
def engine_python() -> Callable[[str], Path]:
    """The interpreter of a framework's environment by name, such as `engine_python("mxnet")`.

    The default version, for one and several devices of the CPU, made with uv on first use.
    DLPERF_TEST_PYTHON_MXNET (_ONEFLOW, _PYTORCH) names a ready interpreter instead, for work on the programs.
    """

    @cache
    def python_of(name: str) -> Path:
        given = os.environ.get(f"DLPERF_TEST_PYTHON_{name.upper()}")
        if given:
            return Path(given)
        from dlperf.adapters.registry import load_adapters  # noqa: PLC0415 - only engine tests pay for it
        from dlperf.environments import ensure  # noqa: PLC0415

        adapter = load_adapters()[name]
        return ensure(adapter.environment(adapter.versions[0], "cpu", parallel=True)).python

    return python_of
