"""A/A: one side split into two that cannot differ. What is found then is the machine's and the method's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from dlperf.compare.sets import MEASURED, REGRESSIONS, CaseSamples, Metric, ResultSet
from dlperf.compare.tests import FEWEST_RUNS, Effect, effect_of, fit_priors, run_tests
from dlperf.errors import UserError
from dlperf.results.cases import cell_name
from dlperf.results.noise_profile import CaseNoise, Session
from dlperf.statistics.basic import mean, t_quantile
from dlperf.statistics.moderation import NO_PRIOR, moderated

SPLITS = 400

Values = tuple[float, float]  # of the two runs of a block


def qualify(side: ResultSet, *, runs: int = 5, splits: int = SPLITS, seed: int = 0) -> Session:
    """Measure the noise of one session, and how often the comparison calls it a regression.

    The runs of a case are taken two by two in their order; each two are a block of an A/A comparison, whose
    sides are drawn anew for each split. Splits share their runs: more of them make the rate finer, not surer.

    Args:
        side: at least 2 x `FEWEST_RUNS` good runs a case.
        runs: that a side of a comparison will have; the noise floor is for so many.
        splits: into two sides.
        seed: of the draw.

    Raises:
        UserError: no case has runs for `FEWEST_RUNS` blocks, or a value is no figure.
    """
    blocks = {metric.name: _blocks(side, metric) for metric in MEASURED}
    usable = blocks[MEASURED[0].name]
    if not usable:
        raise UserError(
            f"{side.label}: no case has {2 * FEWEST_RUNS} good runs, which two sides of {FEWEST_RUNS} take"
        )
    draw = random.Random(seed)  # noqa: S311 - no secret
    alarms = sum(_raises_alarm(blocks, draw) for _ in range(splits))
    starts = [run.started_at for one in side.cases for run in one.runs if run.started_at is not None]
    return Session(
        started_at=min(starts, default=None),
        runs=runs,
        cases=len(usable),
        splits=splits,
        false_alarms=alarms,
        noise=tuple(noise for metric in MEASURED for noise in _noise(metric, blocks[metric.name], runs)),
    )


def _blocks(side: ResultSet, metric: Metric) -> list[tuple[CaseSamples, list[Values]]]:
    """Each case's values two by two, in the order in which they were made."""
    found = []
    for one in side.cases:
        one.checked_values(metric)
        runs = sorted(one.runs, key=lambda run: (run.started_at or "", run.repeat))
        values = [run.values[metric.name] for run in runs if metric.name in run.values]
        pairs = list(zip(values[::2], values[1::2], strict=False))
        if len(pairs) >= FEWEST_RUNS:
            found.append((one, pairs))
    return found


def _effect(values: Sequence[Values], turned: Sequence[bool]) -> Effect:
    sides: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for number, (pair, turn) in enumerate(zip(values, turned, strict=True)):
        for each, value in zip(sides, reversed(pair) if turn else pair, strict=True):
            each[str(number)] = value
    return effect_of(*sides)


def _raises_alarm(blocks: dict[str, list[tuple[CaseSamples, list[Values]]]], draw: random.Random) -> bool:
    # The sides of a block are the same for all metrics, as they would be in a comparison.
    turns: dict[str, list[bool]] = {}
    for metric in MEASURED:
        effects = []
        for one, values in blocks[metric.name]:
            turned = turns.setdefault(one.case.case_id, [draw.random() < 0.5 for _ in values])  # noqa: PLR2004
            effects.append(_effect(values, turned[: len(values)]))
        tests = run_tests(metric, effects, margins=[metric.margin] * len(effects))
        if any(test.verdict in REGRESSIONS for test in tests):
            return True
    return False


def _noise(
    metric: Metric, blocks: Sequence[tuple[CaseSamples, list[Values]]], runs: int
) -> Iterator[CaseNoise]:
    # Who ran first turns round from block to block, as in a sweep of two versions.
    effects = [_effect(values, [bool(number % 2) for number in range(len(values))]) for _, values in blocks]
    prior = fit_priors(effects).get(True, NO_PRIOR)
    pooled = math.fsum(one.variance.degrees for one in effects)
    for (one, values), made in zip(blocks, effects, strict=True):
        variance = moderated(made.variance, prior, most_degrees=pooled)
        half = t_quantile(0.975, degrees=variance.degrees) * math.sqrt(variance.value / runs)
        logs = [math.log(value) for pair in values for value in pair]
        yield CaseNoise(
            case=one.case.content_hash,
            cell=cell_name(one.case),
            framework=one.case.framework,
            version=one.case.version,
            hardware=one.hardware,
            metric=metric.name,
            blocks=len(values),
            level=math.exp(mean(logs)),
            deviation=math.sqrt(variance.value),
            noise_floor=math.expm1(half),
        )
