"""What an alignment comes to, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.align.certificate import Contender, Pair

REFERENCE: Final = "reference"  # its name as a contender


def faults(
    contenders: Sequence[Contender], pairs: Sequence[Pair], reference: Sequence[Pair]
) -> tuple[str, ...]:
    """Who computes what differently, and who has nothing to compare; () where all is well.

    Where the reference accuses somebody, the pairs that differ in consequence are not named again.
    """
    errors = {f"{one.name}: {one.error}": one for one in contenders if one.error}
    absent = [f"{one.name} has nothing to compare: {one.error}" for one in errors.values()]
    own = dict.fromkeys(pair.error for pair in reference if pair.error and pair.error not in errors)
    absent += [f"the {REFERENCE} has nothing to compare: {why.partition(': ')[2]}" for why in own]
    accused = [pair for pair in reference if pair.figures and not pair.passed]
    if accused:
        wrong = [f"{pair.first} differs from the {REFERENCE}: {_what(pair)}" for pair in accused]
    else:
        broken = [pair for pair in pairs if pair.figures and not pair.passed]
        wrong = [f"{pair.first} and {pair.second} differ: {_what(pair)}" for pair in broken]
    return (*wrong, *absent)


def verdict(contenders: Sequence[Contender], pairs: Sequence[Pair], reference: Sequence[Pair]) -> str:
    """One line: the largest difference where all is well, else the faults."""
    found = faults(contenders, pairs, reference)
    if found:
        return "; ".join(found)
    losses = [pair.figures.losses for pair in pairs if pair.figures]
    return f"max loss difference {max(map(max, losses)):.0e} over {len(losses[0])} steps"


def _what(pair: Pair) -> str:
    return pair.culprit or (
        f"first in {pair.first_to_differ}" if pair.first_to_differ else "beyond tolerance"
    )
