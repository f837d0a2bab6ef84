"""One side's cases split in two: the versions that are compared with, and the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.plan.validation import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.compare.side import Side, SideCase


def split(side: Side, *, baselines: Sequence[str] = ()) -> tuple[tuple[Side, Side], ...]:
    """Pairs of baseline and candidate inside one side, one pair for each further version of a framework.

    Of each framework with several versions one is the baseline: that which `baselines` names, else the first
    in the order of the cases. A framework with one version is in no pair.

    Args:
        side: of a sweep with versions as an axis.
        baselines: `name==version` of those that are not the first.

    Raises:
        UserError: no framework has two versions, or a named baseline is not there.
    """
    versions: dict[str, list[str]] = {}
    for one in side.cases:
        listed = versions.setdefault(one.case.framework, [])
        if one.case.version not in listed:
            listed.append(one.case.version)
    for name in baselines:
        _put_first(versions, name)
    several = {name: listed for name, listed in versions.items() if len(listed) > 1}
    if not several:
        raise UserError(
            f"{side.label}: no framework is there in two versions; list both in the sweep "
            "(frameworks: [mxnet==1.9.0, mxnet==1.9.1]) or name a baseline with --against"
        )
    before = {(name, listed[0]) for name, listed in several.items()}
    pairs = []
    for place in range(1, max(map(len, several.values()))):
        after = {(name, listed[place]) for name, listed in several.items() if place < len(listed)}
        names = {name for name, _ in after}
        base = {arm for arm in before if arm[0] in names}
        pairs.append((_labelled(side, base), _labelled(side, after)))
    return tuple(pairs)


def _put_first(versions: dict[str, list[str]], name: str) -> None:
    framework, _, version = name.partition("==")
    if version not in versions.get(framework, ()):
        known = [f"{one}=={each}" for one, listed in versions.items() for each in listed]
        raise UserError(f"--baseline: {unknown('version', name, known)}")
    versions[framework].remove(version)
    versions[framework].insert(0, version)


def _labelled(side: Side, arms: set[tuple[str, str]]) -> Side:
    cases: list[SideCase] = [one for one in side.cases if (one.case.framework, one.case.version) in arms]
    label = ", ".join(dict.fromkeys(f"{one.case.framework} {one.case.version}" for one in cases))
    return side.only(cases).model_copy(update={"label": label})
