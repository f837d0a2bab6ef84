"""What A/A runs on somebody's own machines came to: the noise of runs, of sessions, and the false alarms."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from dlperf import __version__
from dlperf.compare.moderation import Variance, fit_prior, moderated
from dlperf.compare.words import cell_name
from dlperf.errors import UserError
from dlperf.model import Model
from dlperf.report.numbers import plural
from dlperf.results.statistics import standard_deviation, t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dlperf.compare.matching import Pair
    from dlperf.compare.metrics import Metric

QUALIFICATION_NAME: Final = "qualification.json"
QUALIFICATION_SCHEMA_VERSION: Final = 2
FEWEST_SESSIONS: Final = 2


class CaseNoise(Model):
    """The noise of one metric of one case on one kind of machine, in one session.

    `level` is the geometric mean of its runs. `deviation` is the standard deviation of the log ratio of two
    runs of one block, moderated over the cases. `noise_floor`: with the session's runs a side, 19 of 20
    differences of equal sides are smaller.
    """

    case: str  # content hash
    cell: str
    framework: str
    version: str
    hardware: str
    metric: str
    blocks: int
    level: float
    deviation: float
    noise_floor: float


class Session(Model):
    """A/A runs of one time; runs back to back cannot see what changes from one time to another."""

    started_at: str | None  # of its first run; what tells sessions apart
    runs: int  # a side
    cases: int
    splits: int  # of the same runs into two sides
    false_alarms: int  # splits with a regression of any metric of any case
    noise: tuple[CaseNoise, ...]


@dataclass(frozen=True, slots=True)
class Floor:
    """The largest difference of equal sides that is to be expected, a ratio less 1.

    `sessions` is how many were compared with each other for it; 0 where it knows the noise of runs alone.
    """

    value: float
    sessions: int = 0


_Key = tuple[str, str, str, str]  # cell, framework, hardware, metric


class Qualification(Model):
    """`qualification.json`: the sessions, earliest first."""

    schema_version: Literal[2] = QUALIFICATION_SCHEMA_VERSION
    dlperf_version: str
    sessions: tuple[Session, ...]

    def with_session(self, session: Session) -> Qualification:
        """The same with one more session, which takes the place of one that started when it did."""
        others = [one for one in self.sessions if one.started_at != session.started_at]
        ordered = sorted([*others, session], key=lambda one: one.started_at or "")
        return Qualification(dlperf_version=__version__, sessions=tuple(ordered))

    @property
    def false_alarm_rate(self) -> float:
        """The share of comparisons of equal sides that say regression."""
        return sum(one.false_alarms for one in self.sessions) / sum(one.splits for one in self.sessions)

    def floor(self, pair: Pair, metric: Metric, *, in_turns: bool) -> Floor | None:
        """The larger of the two sides' floors; None where neither was qualified on its hardware.

        `in_turns`: the sides were run in common blocks, so that what changes between sessions hits both.
        """
        keys = {
            (cell_name(one), one.case.framework, one.hardware, metric.name)
            for one in (pair.baseline, pair.candidate)
        }
        found = [self.of_runs[key] for key in keys if key in self.of_runs]
        apart = [self.of_sessions[key] for key in keys if key in self.of_sessions and not in_turns]
        if not found:
            return None
        sessions = max((one.sessions for one in apart), default=0)
        return Floor(max(one.value for one in (*found, *apart)), sessions=sessions)

    @cached_property
    def of_runs(self) -> dict[_Key, Floor]:
        """The quadratic mean over the sessions; of several versions the largest."""
        squares: dict[tuple[_Key, str], list[float]] = defaultdict(list)
        for one in self._all:
            squares[_key(one), one.case].append(one.noise_floor**2)
        return _largest(
            (key, Floor(math.sqrt(math.fsum(each) / len(each)))) for (key, _), each in squares.items()
        )

    @cached_property
    def of_sessions(self) -> dict[_Key, Floor]:
        """By how much the levels of one case in two sessions differ at most in 19 of 20 pairs of sessions.

        The variance of the log levels is moderated over the cases. The degrees of freedom are not: all cases
        were run in the same few sessions, and a machine that was slow in one was slow for all of them.
        """
        levels: dict[tuple[_Key, str], list[float]] = defaultdict(list)
        for one in self._all:
            levels[_key(one), one.case].append(math.log(one.level))
        several = {name: logs for name, logs in levels.items() if len(logs) >= FEWEST_SESSIONS}
        families: dict[tuple[str, str], dict[tuple[_Key, str], Variance]] = defaultdict(dict)
        for name, logs in several.items():
            deviation = standard_deviation(logs) or 0.0
            families[name[0][2:]][name] = Variance(deviation**2, len(logs) - 1)
        floors = []
        for family in families.values():
            prior = fit_prior(list(family.values()))
            for name, variance in family.items():
                reach = t_quantile(0.975, degrees=variance.degrees)
                half = reach * math.sqrt(2 * moderated(variance, prior).value)
                floors.append((name[0], Floor(math.expm1(half), sessions=len(several[name]))))
        return _largest(floors)

    @property
    def _all(self) -> Iterator[CaseNoise]:
        return (noise for session in self.sessions for noise in session.noise)

    @property
    def line(self) -> str:
        """For a report that uses it."""
        alarms, splits = (
            sum(getattr(one, name) for one in self.sessions) for name in ("false_alarms", "splits")
        )
        cases = len({one.case for one in self._all})
        runs = " or ".join(map(str, sorted({one.runs for one in self.sessions})))
        return (
            f"qualified{self._when}: {alarms} of {splits} splits of {plural(cases, 'case')}' A/A runs "
            f"({runs} a side) raised a false alarm"
        )

    @property
    def _when(self) -> str:
        days = [one.started_at[:10] for one in self.sessions if one.started_at]
        when = "" if not days else f" on {days[0]}" if days[0] == days[-1] else f" {days[0]} to {days[-1]}"
        return when + (f" in {len(self.sessions)} sessions" if len(self.sessions) > 1 else "")


def _key(one: CaseNoise) -> _Key:
    return (one.cell, one.framework, one.hardware, one.metric)


def _largest(floors: Iterable[tuple[_Key, Floor]]) -> dict[_Key, Floor]:
    found: dict[_Key, Floor] = {}
    for key, floor in floors:
        found[key] = max(found.get(key, floor), floor, key=lambda each: each.value)
    return found


def read_qualification(path: Path) -> Qualification:
    """A saved qualification; UserError where there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; `dlperf qualify SWEEP` writes one") from None
    except ValueError as error:
        raise UserError(f"{path}: no qualification: {error}; make it again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != QUALIFICATION_SCHEMA_VERSION:
        newer = version > QUALIFICATION_SCHEMA_VERSION
        todo = "use a newer dlperf" if newer else "remove it and run `dlperf qualify` again"
        raise UserError(
            f"{path}: a qualification of schema version {version}, this dlperf reads "
            f"{QUALIFICATION_SCHEMA_VERSION}: {todo}"
        )
    try:
        return Qualification.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: no qualification: {place}: {first['msg']}; make it again") from None
