"""How often a rule cries wolf and how often it finds: `python benchmarks/detect.py [--results FOLDER]`.

Simulated sweeps of 50 cases in two versions, 5 interleaved blocks each. The noise between runs has the
coefficients of variation of 91 published series (median 0.40 %, 75 % below 0.97 %, 90 % below 1.5 %), or is
resampled from the A/A runs of a results folder. In half of the sweeps nothing changed; in the other half one
case became 3 % slower. `--drift 1` adds a machine whose speed moves by 1 % from block to block.

`--rows N` simulates rows of a report in place of sweeps: who is called the fastest of several frameworks that
are equal, or of which one is ahead.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from dlperf.compare.gate import CONFIRMING_RULE, looks_worse
from dlperf.compare.sets import SAMPLES_PER_SECOND, Verdict, read_result_set
from dlperf.compare.tests import effect_of, fit_priors, run_tests
from dlperf.statistics.basic import benjamini_hochberg
from dlperf.statistics.ranking import fastest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dlperf.compare.tests import Effect, TestResult

    Array = NDArray[np.float64]

CASES, RUNS, STEPS = 50, 5, 100
MARGIN, LEVEL = 0.01, 0.05
ASV_FACTOR, ASV_LEVEL = 1.1, 0.002  # of asv.commands.compare and asv_runner.statistics
# Quantiles of the published series; beyond the last one the slope of the stretch before it goes on.
SHARES, CVS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99), (0.0005, 0.0018, 0.0040, 0.0097, 0.0150, 0.0195)
STEP_CV, STEP_CORRELATION = 0.02, 0.3


class Sweep:
    """Rates of both sides [CASES, RUNS], and what more a rule may ask for."""

    def __init__(
        self, stream: np.random.Generator, noise: Callable[[int], Array], change: float, drift: float
    ) -> None:
        self.stream, self.noise, self.change, self.drift = stream, noise, change, drift
        self.kinds = stream.integers(0, 1 << 30, CASES)
        self.baseline, self.candidate = self.runs(range(CASES))

    def runs(self, cases: range | list[int]) -> tuple[Array, Array]:
        """Fresh runs of some of the cases."""
        sides = np.stack([[self.noise(int(self.kinds[case])) for case in cases] for _ in range(2)])
        sides += np.cumsum(self.stream.normal(0, self.drift, (1, len(cases), RUNS)), axis=2)
        if 0 in cases:
            sides[1, list(cases).index(0)] += math.log1p(self.change)
        return np.exp(sides[0]), np.exp(sides[1])

    def steps(self, case: int) -> tuple[Array, Array]:
        """Durations of the iterations of all runs of a case, pooled; neighbours are correlated."""
        made = []
        for rates in (self.baseline[case], self.candidate[case]):
            shocks = self.stream.normal(0, STEP_CV * math.sqrt(1 - STEP_CORRELATION**2), (RUNS, STEPS))
            series = np.zeros((RUNS, STEPS))
            for step in range(1, STEPS):
                series[:, step] = STEP_CORRELATION * series[:, step - 1] + shocks[:, step]
            made.append((np.exp(series) / rates[:, None]).ravel())
        return made[0], made[1]


def threshold(sweep: Sweep, limit: float) -> set[int]:
    ratio = np.median(sweep.candidate, axis=1) / np.median(sweep.baseline, axis=1)
    return set(np.flatnonzero(ratio < 1 - limit))


def welch(sweep: Sweep, adjust: Callable[[list[float]], list[float]]) -> set[int]:
    test = stats.ttest_ind(np.log(sweep.candidate), np.log(sweep.baseline), axis=1, equal_var=False)
    adjusted = np.array(adjust(list(map(float, test.pvalue))))
    return set(np.flatnonzero((adjusted < LEVEL) & (test.statistic < 0)))


def mann_whitney_on_steps(sweep: Sweep) -> set[int]:
    found = set()
    for case in range(CASES):
        before, after = sweep.steps(case)
        if stats.mannwhitneyu(after, before, alternative="greater").pvalue < LEVEL / 2:
            found.add(case)
    return found


def asv(sweep: Sweep) -> set[int]:
    """asv compare: the factor, and a two-sided Mann-Whitney test on the runs."""
    found = set()
    for case in threshold(sweep, 1 - 1 / ASV_FACTOR):
        if stats.mannwhitneyu(sweep.candidate[case], sweep.baseline[case]).pvalue < ASV_LEVEL:
            found.add(case)
    return found


def effects(baseline: Array, candidate: Array) -> list[Effect]:
    return [
        effect_of(dict(enumerate(map(float, one))), dict(enumerate(map(float, other))))
        for one, other in zip(baseline, candidate, strict=True)
    ]


def compare_rule(sweep: Sweep) -> set[int]:
    made = effects(sweep.baseline, sweep.candidate)
    judged = run_tests(SAMPLES_PER_SECOND, made, margins=[MARGIN] * CASES)
    return {case for case, one in enumerate(judged) if one.verdict is Verdict.SLOWER}


def gate_rule(sweep: Sweep) -> set[int]:
    """As dlperf.cli.gate: suspects at 5 %, then Holm on fresh runs, which are looked at twice."""
    made = effects(sweep.baseline, sweep.candidate)
    judged = run_tests(SAMPLES_PER_SECOND, made, margins=[MARGIN] * CASES)
    doubtful = [case for case, one in enumerate(judged) if looks_worse(SAMPLES_PER_SECOND, one)]
    if not doubtful:
        return set()
    fresh = sweep.runs(doubtful)
    again = confirmed(effects(*fresh), made)
    unclear = [place for place, one in enumerate(again) if one.verdict is Verdict.INCONCLUSIVE]
    if unclear:
        more = sweep.runs([doubtful[place] for place in unclear])
        pooled = effects(*fresh)
        for place, one in zip(
            unclear,
            effects(*(np.hstack([old[unclear], new]) for old, new in zip(fresh, more, strict=True))),
            strict=True,
        ):
            pooled[place] = one
        again = confirmed(pooled, made)
    return {case for case, one in zip(doubtful, again, strict=True) if one.verdict is Verdict.SLOWER}


def confirmed(fresh: list[Effect], first: list[Effect]) -> list[TestResult]:
    return run_tests(
        SAMPLES_PER_SECOND,
        fresh,
        margins=[MARGIN] * len(fresh),
        rule=CONFIRMING_RULE,
        priors=fit_priors(first),
    )


RULES: dict[str, Callable[[Sweep], set[int]]] = {
    "5 % threshold on medians": lambda sweep: threshold(sweep, 0.05),
    "2 % threshold on medians": lambda sweep: threshold(sweep, 0.02),
    "Welch, p < 0.05": lambda sweep: welch(sweep, list),
    "Welch, Benjamini-Hochberg": lambda sweep: welch(sweep, benjamini_hochberg),
    "Mann-Whitney on pooled iterations": mann_whitney_on_steps,
    "asv (factor 1.1 and Mann-Whitney)": asv,
    "dlperf compare": compare_rule,
    "dlperf gate (suspects run again)": gate_rule,
}


def fastest_rows(stream: np.random.Generator, noise: Callable[[int], Array], rows: int) -> None:
    """How often the first of a row is named, which is ahead of the equal others by the lead, or another."""
    print(f"{rows} rows each, {RUNS} runs of each framework")
    print("| frameworks | lead | the right one is named | a wrong one | no winner |")
    print("|---:|---:|---:|---:|---:|")
    for count in (2, 3, 5):
        for lead in (0.0, 0.02, 0.03, 0.05, 0.1):
            named = Counter(_winner(stream, noise, count, lead) for _ in range(rows))
            right = named[0] if lead else 0
            shares = (right, rows - named[None] - right, named[None])
            cells = " | ".join(f"{100 * share / rows:.1f} %" for share in shares)
            print(f"| {count} | {100 * lead:g} % | {cells} |")


def _winner(
    stream: np.random.Generator, noise: Callable[[int], Array], count: int, lead: float
) -> int | None:
    kinds = [int(kind) for kind in stream.integers(0, 1 << 30, count)]
    rates = {key: np.exp(noise(kind) + math.log1p(0 if key else lead)) for key, kind in enumerate(kinds)}
    standing = fastest({key: [float(rate) for rate in each] for key, each in rates.items()})
    return None if standing is None else standing.winner


def published_noise(stream: np.random.Generator) -> Callable[[int], Array]:
    def noise(kind: int) -> Array:
        share = np.random.default_rng(kind).uniform(0, SHARES[-1])
        return stream.normal(0, math.exp(np.interp(share, SHARES, np.log(CVS))), RUNS)

    return noise


def resampled_noise(stream: np.random.Generator, folder: Path) -> Callable[[int], Array]:
    """Deviations of a case's runs from their mean, drawn with replacement, scaled to keep their variance."""
    side = read_result_set(str(folder), inside=folder)
    series = [np.log(list(one.values(SAMPLES_PER_SECOND).values())) for one in side.cases]
    usable = [logs - logs.mean() for logs in series if len(logs) >= RUNS]
    if not usable:
        raise SystemExit(f"{folder}: no case with {RUNS} good runs")
    cvs = ", ".join(f"{100 * logs.std(ddof=1):.2f}" for logs in usable)
    print(f"{len(usable)} cases of {folder}; standard deviations of their runs, %: {cvs}")

    def noise(kind: int) -> Array:
        logs = usable[kind % len(usable)]
        return stream.choice(logs, RUNS) * math.sqrt(len(logs) / (len(logs) - 1))

    return noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="resample the noise of these A/A runs")
    parser.add_argument("--sweeps", type=int, default=500, help="simulated sweeps with and without a change")
    parser.add_argument(
        "--drift", type=float, default=0.0, help="%% by which the machine moves from block to block"
    )
    parser.add_argument(
        "--rows", type=int, help="simulate so many rows, each with a fastest framework or none"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Resampled runs can be equal to the last bit, of which scipy warns; the rules must live with them.
    warnings.simplefilter("ignore", RuntimeWarning)
    stream = np.random.default_rng(options.seed)
    noise = resampled_noise(stream, options.results) if options.results else published_noise(stream)
    if options.rows:
        fastest_rows(stream, noise, options.rows)
        return
    print(f"{options.sweeps} sweeps each of {CASES} cases, {RUNS} blocks, drift {options.drift:g} % a block")
    print("| rule | any false alarm | finds one case at -3 % |")
    print("|---|---:|---:|")
    alarms = dict.fromkeys(RULES, 0)
    found = dict.fromkeys(RULES, 0)
    for _ in range(options.sweeps):
        same = Sweep(stream, noise, 0.0, options.drift / 100)
        slower = Sweep(stream, noise, -0.03, options.drift / 100)
        for name, rule in RULES.items():
            alarms[name] += bool(rule(same))
            found[name] += 0 in rule(slower)
    for name in RULES:
        share, power = 100 * alarms[name] / options.sweeps, 100 * found[name] / options.sweeps
        print(f"| {name} | {share:.1f} % | {power:.0f} % |")


if __name__ == "__main__":
    main()
