"""Parts of a training step as people read them, in their order; the programs' keys are the log's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dlperf.report.text import say

if TYPE_CHECKING:
    from dlperf.report.text import Inline

# Of an engine that runs a step as one graph.
GRAPH: Final = "graph"
# As frameworks/common/phases.py names them.
PHASES: Final = {
    "data": say("data"),
    "forward_backward": say("forward and backward"),
    "communication": say("communication"),
    "optimizer": say("optimizer"),
    GRAPH: say("one graph of all"),
}


def phase_name(phase: str) -> Inline:
    """The words for a phase; another adapter's own phase as it is called."""
    return PHASES.get(phase, phase)


def in_order(seconds: dict[str, float]) -> dict[str, float]:
    """The phases in the order of a step, unknown ones last."""
    known = {phase: seconds[phase] for phase in PHASES if phase in seconds}
    return known | {phase: value for phase, value in sorted(seconds.items()) if phase not in known}
