"""A/A: one side split into two that cannot differ. What is found then is the machine's and the method's."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from dlperf import __version__
from dlperf.compare.contrast import FEWEST_RUNS, Contrast, contrast
from dlperf.compare.judging import fit_priors, judge
from dlperf.compare.metrics import MEASURED, REGRESSIONS, Metric
from dlperf.compare.moderation import NO_PRIOR, moderated
from dlperf.compare.words import cell_name
from dlperf.errors import UserError
from dlperf.model import Model
from dlperf.results.statistics import t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dlperf.compare.matching import Pair
    from dlperf.compare.side import Side, SideCase

QUALIFICATION_NAME: Final = "qualification.json"
SPLITS = 400

Values = tuple[float, float]  # of the two runs of a block


class CaseNoise(Model):
    """The noise of one metric of one case on one kind of machine.

    `deviation` is the standard deviation of the log ratio of two runs of one block, moderated over the cases.
    `noise_floor`: with the qualification's runs a side, 19 of 20 differences of equal sides are smaller.
    """

    cell: str
    framework: str
    version: str
    hardware: str
    metric: str
    blocks: int
    deviation: float
    noise_floor: float


class Qualification(Model):
    """`qualification.json`: what A/A runs on somebody's own machines came to."""

    schema_version: Literal[1] = 1
    dlperf_version: str
    created_at: str | None  # when the last of the runs started
    runs: int  # a side
    cases: int
    splits: int  # of the same runs into two sides
    false_alarms: int  # splits with a regression of any metric of any case
    noise: tuple[CaseNoise, ...]

    @property
    def false_alarm_rate(self) -> float:
        """The share of comparisons of equal sides that say regression."""
        return self.false_alarms / self.splits

    def noise_floor(self, pair: Pair, metric: Metric) -> float | None:
        """The larger of the two sides' floors; None where neither was qualified on its hardware."""
        keys = {_key(one) for one in (pair.baseline, pair.candidate)}
        floors = [
            one.noise_floor
            for one in self.noise
            if one.metric == metric.name and (one.cell, one.framework, one.hardware) in keys
        ]
        return max(floors, default=None)

    @property
    def line(self) -> str:
        """For a report that uses it."""
        when = f" on {self.created_at[:10]}" if self.created_at else ""
        return (
            f"qualified{when}: {self.false_alarms} of {self.splits} splits of {self.cases} cases' A/A runs "
            f"({self.runs} a side) raised a false alarm"
        )


def _key(one: SideCase) -> tuple[str, str, str]:
    return (cell_name(one), one.case.framework, one.hardware)


def qualify(side: Side, *, runs: int = 5, splits: int = SPLITS, seed: int = 0) -> Qualification:
    """Measure the noise of a side, and how often the comparison calls it a regression.

    The runs of a case are taken two by two in their order; each two are a block of an A/A comparison, whose
    sides are drawn anew for each split. Splits share their runs: more of them make the rate finer, not surer.

    Args:
        side: at least 2 x `FEWEST_RUNS` good runs a case.
        runs: that a side of a comparison will have; the noise floor is for so many.
        splits: into two sides.
        seed: of the draw.

    Raises:
        UserError: no case has runs for `FEWEST_RUNS` blocks.
    """
    blocks = {metric.name: _blocks(side, metric) for metric in MEASURED}
    usable = blocks[MEASURED[0].name]
    if not usable:
        raise UserError(
            f"{side.label}: no case has {2 * FEWEST_RUNS} good runs, which two sides of {FEWEST_RUNS} take"
        )
    draw = random.Random(seed)  # noqa: S311 - no secret
    alarms = sum(_raises_alarm(blocks, draw) for _ in range(splits))
    return Qualification(
        dlperf_version=__version__,
        created_at=side.created_at,
        runs=runs,
        cases=len(usable),
        splits=splits,
        false_alarms=alarms,
        noise=tuple(noise for metric in MEASURED for noise in _noise(metric, blocks[metric.name], runs)),
    )


def _blocks(side: Side, metric: Metric) -> list[tuple[SideCase, list[Values]]]:
    """Each case's values two by two, in the order in which they were made."""
    found = []
    for one in side.cases:
        runs = sorted(one.runs, key=lambda run: (run.started_at or "", run.repeat))
        values = [run.values[metric.name] for run in runs if metric.name in run.values]
        pairs = list(zip(values[::2], values[1::2], strict=False))
        if len(pairs) >= FEWEST_RUNS:
            found.append((one, pairs))
    return found


def _contrast(values: Sequence[Values], turned: Sequence[bool]) -> Contrast:
    sides: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for number, (pair, turn) in enumerate(zip(values, turned, strict=True)):
        for each, value in zip(sides, reversed(pair) if turn else pair, strict=True):
            each[str(number)] = value
    return contrast(*sides)


def _raises_alarm(blocks: dict[str, list[tuple[SideCase, list[Values]]]], draw: random.Random) -> bool:
    # The sides of a block are the same for all metrics, as they would be in a comparison.
    turns: dict[str, list[bool]] = {}
    for metric in MEASURED:
        contrasts = []
        for one, values in blocks[metric.name]:
            turned = turns.setdefault(one.case.case_id, [draw.random() < 0.5 for _ in values])  # noqa: PLR2004
            contrasts.append(_contrast(values, turned[: len(values)]))
        judged = judge(metric, contrasts, margins=[metric.margin] * len(contrasts))
        if any(one.verdict in REGRESSIONS for one in judged):
            return True
    return False


def _noise(metric: Metric, blocks: Sequence[tuple[SideCase, list[Values]]], runs: int) -> Iterator[CaseNoise]:
    # Who ran first turns round from block to block, as in a sweep of two arms.
    contrasts = [
        _contrast(values, [bool(number % 2) for number in range(len(values))]) for _, values in blocks
    ]
    prior = fit_priors(contrasts).get(True, NO_PRIOR)
    pooled = math.fsum(one.variance.degrees for one in contrasts)
    for (one, values), made in zip(blocks, contrasts, strict=True):
        variance = moderated(made.variance, prior, most_degrees=pooled)
        half = t_quantile(0.975, degrees=variance.degrees) * math.sqrt(variance.value / runs)
        yield CaseNoise(
            cell=cell_name(one),
            framework=one.case.framework,
            version=one.case.version,
            hardware=one.hardware,
            metric=metric.name,
            blocks=len(values),
            deviation=math.sqrt(variance.value),
            noise_floor=math.expm1(half),
        )


def read_qualification(path: Path) -> Qualification:
    """A saved qualification; UserError where there is none that can be read."""
    try:
        return Qualification.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; `dlperf qualify SWEEP` writes one") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: no qualification: {place}: {first['msg']}; make it again") from None
