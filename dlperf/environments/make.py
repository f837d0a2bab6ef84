"""Make an environment, or find the one that was made before."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.environments.environment import Environment


def _to_standard_error(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def ensure(
    spec: EnvironmentSpec, *, python: Path | None = None, report: Callable[[str], None] = _to_standard_error
) -> Environment:
    """The environment of `spec`, made with uv if this machine has none yet.

    Args:
        spec: what an adapter asks for.
        python: an interpreter of the user's own; it is checked and used as it is, nothing is installed.
        report: is given one line of progress at a time.

    Raises:
        EnvironmentUnavailable: it cannot be made, or does not work; with the reason and the next step.
    """
    del python, report
    raise EnvironmentUnavailable(f"{spec.framework}=={spec.version}: environments are not made yet")
