"""How the results were measured, as facts; the template puts them into sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlperf.plan.sweep_file import Order
    from dlperf.results.query import Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The different ways of measuring that the results hold, each once, in the order of the cases."""

    windows: tuple[tuple[int, int], ...]  # warm-up and measured iterations
    orders: tuple[tuple[Order, int], ...]  # order of the runs and repeats of a case, as planned
    all_planned: bool  # whether every sweep has a plan beside it


def method(loaded: Loaded) -> Method:
    """The method behind some results."""
    measures = (figure.case.measure for figure in loaded.figures)
    results = loaded.results
    return Method(
        windows=tuple(dict.fromkeys((one.warmup_iterations, one.measured_iterations) for one in measures)),
        orders=tuple(dict.fromkeys((plan.order, plan.repeats) for plan in results.plans.values())),
        all_planned=len(results.plans) == len(results.sweeps),
    )
