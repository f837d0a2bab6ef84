"""Which case of one side belongs to which of the other, and what keeps two from being compared."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import pandas as pd

from dlperf.compare.sets import CaseSamples, ResultSet
from dlperf.plan.case import SEARCHED_AXES, Case, bytes_text

# The cell of a sweep: cases of one cell are asked to do the same.
_CELL: dict[str, Callable[[Case], object]] = {
    "experiment": lambda case: case.workload.experiment,
    "parallelism": lambda case: case.parallelism,
    "sample_ratio": lambda case: case.sample_ratio,
    "topology": lambda case: str(case.topology),
    **{axis: partial(Case.size, axis=axis) for axis in SEARCHED_AXES},
    "precision": lambda case: case.precision,
    "device": lambda case: case.device,
    "data": lambda case: None if case.data is None else (case.data.index_sha256, case.data.read),
    "framework": lambda case: case.framework,
}
# What must be the same on both sides beside the cell; `--allow NAME` lets it differ.
_GUARDED: dict[str, Callable[[CaseSamples], object]] = {
    "experiment": lambda one: one.case.workload.content_hash,
    "iterations": lambda one: (
        f"{one.case.measure.warmup_iterations} warm-up, {one.case.measure.measured_iterations} measured"
    ),
    "threads": lambda one: one.case.threads_per_device,
    "memory": lambda one: "none" if one.case.memory_bytes is None else bytes_text(one.case.memory_bytes),
    # At which value a case with `max` was measured: at another one its speed is another thing.
    "limit": lambda one: (
        "none"
        if one.case.search is None
        else f"{one.case.search.axis} {one.case.number(one.case.search.axis)}"
    ),
    "gradients": lambda one: one.case.gradient_dtype,
    "seed": lambda one: one.case.seed,
    "loop": lambda one: _loop(one.case),
    "options": lambda one: _options(one.case),
    "arithmetic": lambda one: one.fp32_arithmetic,
    "hardware": lambda one: one.hardware,
    "driver": lambda one: one.driver,
    "alignment": lambda one: one.alignment,
}
GUARDS: Final = tuple(_GUARDED)
_UNKNOWN = frozenset({None, "unknown hardware"})
_MAY_BE_UNKNOWN = frozenset({"driver", "alignment", "arithmetic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that two cases do not have in common, as a person reads it."""

    guard: str
    baseline: str
    candidate: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.baseline} against {self.candidate}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A case of each side; `differences` are all that there are, allowed or not."""

    baseline: CaseSamples
    candidate: CaseSamples
    differences: tuple[Difference, ...]

    def barred(self, allow: Collection[str]) -> str | None:
        """What keeps the two from being compared, where a difference is not allowed."""
        return "; ".join(str(one) for one in self.differences if one.guard not in allow) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Pairs, and the cases of each side that the other has no counterpart of."""

    pairs: tuple[Pair, ...]
    only_baseline: tuple[CaseSamples, ...]
    only_candidate: tuple[CaseSamples, ...]


def match(baseline: ResultSet, candidate: ResultSet, *, compared: Collection[str] = ()) -> Matched:
    """Match cases on everything but the compared thing.

    Cases of one cell are matched, first those alike in everything, then those that differ in what a guard
    looks at, then those of another version; a case with several counterparts at one of these stages goes on
    to the next. `compared` names fields of the cell that the sides differ in on purpose, such as `precision`.
    """
    candidate = candidate.on_hardware_of(baseline)
    left, right = _table(baseline, compared), _table(candidate, compared)
    partner: dict[int, int] = {}
    for columns in _STAGES:
        pairs = left.drop_duplicates(columns, keep=False).merge(
            right.drop_duplicates(columns, keep=False), on=columns, suffixes=("", "_candidate")
        )
        partner.update(zip(pairs["index"], pairs["index_candidate"], strict=True))
        left = left[~left["index"].isin(pairs["index"])]
        right = right[~right["index"].isin(pairs["index_candidate"])]
    matched = tuple(
        Pair(baseline=one, candidate=other, differences=differences(one, other))
        for one, other in (
            (baseline.cases[index], candidate.cases[partner[index]]) for index in sorted(partner)
        )
    )
    return Matched(
        pairs=matched,
        only_baseline=tuple(baseline.cases[index] for index in left["index"]),
        only_candidate=tuple(candidate.cases[index] for index in right["index"]),
    )


# What two cases must have in common to be a pair, strictest first; each is a group of columns of `_table`.
_STAGES = (
    ["cell", "variant", "guarded"],
    ["cell", "variant", "hardware"],
    ["cell", "variant"],
    ["cell", "guarded"],
    ["cell", "hardware"],
    ["cell"],
)


def _table(side: ResultSet, compared: Collection[str]) -> pd.DataFrame:
    """A row per case, in the order of the side: its number and what cases are matched on."""
    rows = [
        {
            "index": index,
            "cell": tuple(read(one.case) for name, read in _CELL.items() if name not in compared),
            "variant": (one.case.framework, one.case.version, _options(one.case)),
            "guarded": tuple(guarded(one).values()),
            "hardware": (one.hardware, one.driver),
        }
        for index, one in enumerate(side.cases)
    ]
    return pd.DataFrame(rows, columns=["index", "cell", "variant", "guarded", "hardware"])


def guarded(one: CaseSamples) -> dict[str, object]:
    """What must be the same on both sides, by the names of `GUARDS`."""
    return {name: read(one) for name, read in _GUARDED.items()}


def _loop(case: Case) -> str:
    """`own`, or `original` with the hash of the source: another state of a program is another loop."""
    return "own" if case.source is None else f"original {case.source.content_hash}"


def _options(case: Case) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(case.options.items())) or "none"


def differences(baseline: CaseSamples, candidate: CaseSamples) -> tuple[Difference, ...]:
    """What two cases do not have in common of what must be the same.

    Options are a framework's own, and say nothing between two frameworks; nor do the CPU's threads between
    two cases on CUDA. What a side does not know (driver, alignment, arithmetic) is no difference; hardware
    that nobody knows is one, as nothing shows that it was the same.
    """
    found = []
    theirs = guarded(candidate)
    devices = {baseline.case.device, candidate.case.device}
    for guard, value in guarded(baseline).items():
        if guard == "options" and baseline.case.framework != candidate.case.framework:
            continue
        if guard == "threads" and devices == {"cuda"}:
            continue
        if value == theirs[guard] and (guard != "hardware" or value not in _UNKNOWN):
            continue
        if guard in _MAY_BE_UNKNOWN and None in {value, theirs[guard]}:
            continue
        shown = (str(value), str(theirs[guard]))
        if guard == "experiment":
            shown = _workloads(baseline.case, candidate.case)
        found.append(Difference(guard=guard, baseline=shown[0], candidate=shown[1]))
    return tuple(found)


def _workloads(baseline: Case, candidate: Case) -> tuple[str, str]:
    """The leaves in which two workloads differ, such as `loss.m2 0.5`."""
    contents = [case.workload.model_dump(mode="json") for case in (baseline, candidate)]
    flat = [pd.json_normalize(content).to_dict("records")[0] for content in contents]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    left, right = (", ".join(f"{name} {one.get(name, 'none')}" for name in names) for one in flat)
    return left, right
