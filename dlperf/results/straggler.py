"""Which rank the others waited for, from the events `rank_steps` that the ranks printed.

With c[r, k] the own seconds of rank r in step k, s the rank that is the slowest in most steps:

    excess      = median over k of c[s, k] / median(c[r, k] for r != s) - 1
    slowest_in  = number of steps k in which c[s, k] is the largest

Rank s is a straggler where `slowest_in` is at least `LEAST_SHARE` of at least `FEWEST_STEPS` steps and
`excess` is at least `LEAST_EXCESS`. docs/statistics.md says how often that names one of equal ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlperf.logs.events import Event, finite, whole
from dlperf.plan.case import Topology
from dlperf.results.schema import RankTimes
from dlperf.wording import plural

FEWEST_STEPS: Final = 10
LEAST_SHARE: Final = 0.8
LEAST_EXCESS: Final = 0.05


# What a step can take, in seconds: a ratio of two such times is finite. A clock may show less.
_SHORTEST, _LONGEST = 1e-9, 1e9


class _Series(NamedTuple):
    own: list[float]
    exchange: list[float]
    iterations: int


def rank_times_of(
    events: Mapping[int, Sequence[Event]], *, topology: Topology, hosts: Sequence[str]
) -> RankTimes | None:
    """How the ranks compare; None where one of them did not measure. `hosts` are by node rank."""
    if not 1 < topology.world_size <= len(events):
        return None
    series = [_last(events.get(rank, ())) for rank in range(topology.world_size)]
    ranks = [each for each in series if each is not None]
    if len(ranks) < len(series) or len({len(each.own) for each in ranks}) > 1:
        return None
    own = np.array([each.own for each in ranks])
    exchange = np.array([each.exchange for each in ranks])
    steps = own.shape[1]
    slowest = np.bincount(own.argmax(axis=0), minlength=len(ranks))
    rank = int(slowest.argmax())
    slowest_in = int(slowest[rank])
    excess = _excess(own, rank)
    node = rank // topology.devices_per_node
    return RankTimes(
        slowest_rank=rank,
        host=hosts[node] if node < len(hosts) else None,
        excess=excess,
        slowest_in=slowest_in,
        steps=steps,
        steps_per_value=-(-ranks[0].iterations // steps),
        is_straggler=(steps >= FEWEST_STEPS and slowest_in >= LEAST_SHARE * steps and excess >= LEAST_EXCESS),
        compute_seconds=tuple(float(seconds) for seconds in np.median(own, axis=1)),
        exchange_shares=tuple(float(share) for share in exchange.sum(axis=1) / (own + exchange).sum(axis=1)),
    )


def _excess(own: NDArray[np.float64], rank: int) -> float:
    others = np.maximum(np.median(np.delete(own, rank, axis=0), axis=0), _SHORTEST)
    return float(np.median(own[rank] / others)) - 1


def _last(own: Sequence[Event]) -> _Series | None:
    """What a rank measured; where a log holds several runs, the last one counts."""
    values = [found for event in own if event.key == "rank_steps" and (found := _series(event)) is not None]
    return values[-1] if values else None


def _series(event: Event) -> _Series | None:
    value, iterations = event.value, whole(event.metadata.get("iterations"))
    if not isinstance(value, dict) or iterations is None:
        return None
    own, exchange = (_seconds(value.get(name)) for name in ("compute_seconds", "exchange_seconds"))
    if not own or not any(own) or not exchange or len(own) != len(exchange) or iterations < len(own):
        return None
    return _Series(own, exchange, iterations)


def _seconds(values: Any) -> list[float] | None:
    """A list of times; None for anything else."""
    if not isinstance(values, list):
        return None
    numbers = [finite(value) for value in values]
    found = [number for number in numbers if number is not None and 0 <= number <= _LONGEST]
    return found if len(found) == len(values) else None


def rank_times_line(times: RankTimes) -> str:
    """`rank 5 on gpu3: 11 % slower than the median of the others, slowest in 96 of 100 steps; ...`."""
    steps = plural(times.steps, "step")
    if times.steps_per_value > 1:
        steps = f"{times.steps} stretches of {times.steps_per_value} steps"
    where = "" if times.host is None else f" on {times.host}"
    found = (
        f"rank {times.slowest_rank}{where}: {times.excess:.0%} slower than the median of the others, "
        f"slowest in {times.slowest_in} of {steps}"
    )
    if times.is_straggler:
        return f"{found}; the others waited"
    return f"none; {found}"
