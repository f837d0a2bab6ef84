"""A sweep with versions as an axis holds both sides: which version is compared with which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.plan.validation import unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dlperf.compare.side import Side
    from dlperf.plan.case import Case

Version = tuple[str, str]  # framework and version


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """One comparison inside a sweep: a version of each framework against another one of it."""

    baseline: tuple[Version, ...]
    candidate: tuple[Version, ...]

    def sides(self, side: Side) -> tuple[Side, Side]:
        """Baseline and candidate among the cases of a side; either may hold a part of the versions only."""
        return _of(side, self.baseline), _of(side, self.candidate)


def _of(side: Side, versions: Sequence[Version]) -> Side:
    cases = (one for one in side.cases if (one.case.framework, one.case.version) in versions)
    label = ", ".join(f"{framework} {version}" for framework, version in versions)
    return side.only(cases).model_copy(update={"label": label})


def arms_of(cases: Iterable[Case], *, sweep: str, baselines: Sequence[str] = ()) -> tuple[Arms, ...]:
    """The comparisons that a sweep holds: one for each further version of a framework.

    Of each framework with several versions one is the baseline: that which `baselines` names, else the first
    in the order of the cases. A framework with one version is in no comparison.

    Args:
        cases: of the sweep, in its order.
        sweep: its name, for messages.
        baselines: `name==version` of those that are not the first.

    Raises:
        UserError: no framework has two versions, or a named baseline is not there.
    """
    versions: dict[str, list[str]] = {}
    for case in cases:
        listed = versions.setdefault(case.framework, [])
        if case.version not in listed:
            listed.append(case.version)
    for name in baselines:
        _put_first(versions, name)
    several = {name: listed for name, listed in versions.items() if len(listed) > 1}
    if not several:
        raise UserError(
            f"{sweep}: no framework is there in two versions; list both in the sweep "
            "(frameworks: [mxnet==1.9.0, mxnet==1.9.1]) or name a baseline with --against"
        )
    return tuple(
        Arms(
            baseline=tuple((name, listed[0]) for name, listed in several.items() if place < len(listed)),
            candidate=tuple((name, listed[place]) for name, listed in several.items() if place < len(listed)),
        )
        for place in range(1, max(map(len, several.values())))
    )


def _put_first(versions: dict[str, list[str]], name: str) -> None:
    framework, _, version = name.partition("==")
    if version not in versions.get(framework, ()):
        known = [f"{one}=={each}" for one, listed in versions.items() for each in listed]
        raise UserError(f"--baseline: {unknown('version', name, known)}")
    versions[framework].remove(version)
    versions[framework].insert(0, version)
