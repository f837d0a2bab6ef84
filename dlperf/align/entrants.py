"""Who is asked to take part in an alignment, and who of them can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.align.modes import ON_ONE_DEVICE
from dlperf.align.programs import Contestant
from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import shipped_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from dlperf.adapters.base import Adapter, EnvironmentSpec
    from dlperf.align.modes import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A framework in a version.

    Attributes:
        name: framework and version as in results, such as `mxnet==1.9.1` or `mxnet==1.9.1+wheel.0a1b2c3d`.
        adapter: the framework's.
        spec: what must be installed.
        python: an interpreter of the user's own, in which it is.
    """

    name: str
    adapter: Adapter
    spec: EnvironmentSpec
    python: Path | None = None


def contestants_of(
    entrants: Sequence[Entrant], modes: Sequence[Mode], *, held: ExitStack, say: Callable[[str], None]
) -> tuple[list[Contestant], dict[str, str]]:
    """Each entrant whose environment is ready, in each mode, and the others by name with the reason.

    Args:
        entrants: who is asked.
        modes: how each is spread over devices.
        held: keeps the environments from being removed until it is closed.
        say: is given one line of progress at a time.

    Raises:
        EnvironmentUnavailable: none is left.
    """
    contestants, absent = [], {}
    for entrant in entrants:
        try:
            environment = ensure(entrant.spec, python=entrant.python, report=say)
            held.enter_context(environment.in_use())
        except EnvironmentUnavailable as error:
            say(f"{entrant.name}: {error}")
            absent[entrant.name] = str(error)
            continue
        contestants += [
            Contestant(
                name=entrant.name if tuple(modes) == (ON_ONE_DEVICE,) else f"{entrant.name} {mode}",
                version=environment.manifest.version,
                adapter=entrant.adapter,
                python=environment.python,
                code=shipped_root(),
                mode=mode,
            )
            for mode in modes
        ]
    if not contestants:
        reasons = "; ".join(f"{name}: {why}" for name, why in absent.items())
        raise EnvironmentUnavailable(f"no framework to align: {reasons}")
    return contestants, absent
