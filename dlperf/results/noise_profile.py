"""A/A calibration of your machines: the noise of runs and of sessions, and the number of false alarms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from dlperf.files import read_document
from dlperf.layout import NOISE_PROFILE_NAME
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.results.cases import cell_name
from dlperf.results.schema import kinds_of_hardware, same_hardware
from dlperf.statistics.basic import standard_deviation, t_quantile
from dlperf.statistics.moderation import Variance, fit_prior, moderated
from dlperf.version import __version__

FEWEST_SESSIONS: Final = 2


class CaseNoise(Model):
    """The noise of one metric of one case on one kind of machine, in one session."""

    case: str
    """Content hash of the case."""
    cell: str
    """Name of its cell, which the frameworks share, such as `y1_emore data 1n1g b128 c85742 fp32`."""
    framework: str
    """Name of the framework."""
    version: str
    """The framework's version."""
    hardware: str
    """What decides speed, on one line."""
    metric: str
    """Name of the metric, such as `samples_per_sec`."""
    blocks: int
    """Number of blocks of runs."""
    level: Annotated[float, Field(gt=0)]
    """Geometric mean of the runs, in the metric's unit."""
    deviation: Annotated[float, Field(ge=0)]
    """Standard deviation of the log ratio of two runs of one block, moderated over the cases."""
    noise_floor: Annotated[float, Field(ge=0)]
    """With the session's number of runs per side, 19 of 20 differences of equal sides are smaller: a ratio
    minus 1."""


class Session(Model):
    """A/A runs made at one time; they cannot show what changes between sessions."""

    started_at: str | None
    """When its first run was started, ISO 8601 in UTC; identifies the session. Null: not known."""
    runs: int
    """Number of runs of a case on each side."""
    cases: int
    """Number of cases."""
    splits: int
    """How often the same runs were split into two sides."""
    false_alarms: int
    """Number of splits in which any metric of any case was called a regression."""
    noise: tuple[CaseNoise, ...]
    """The noise of each metric of each case."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The largest difference to expect between equal sides, as a ratio minus 1.

    `sessions` is how many were compared for it; 0 if it covers the noise of runs only.
    """

    value: float
    sessions: int = 0


_Key = tuple[str, str, str, str]  # cell, framework, hardware, metric


class NoiseProfile(Model):
    """`qualification.json`: the sessions, earliest first."""

    schema_version: Literal[2] = 2
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that wrote the file."""
    sessions: tuple[Session, ...]
    """The sessions, earliest first."""

    def with_session(self, session: Session) -> NoiseProfile:
        """The profile with one more session, which replaces one with the same start."""
        others = [one for one in self.sessions if one.started_at != session.started_at]
        ordered = sorted([*others, session], key=lambda one: one.started_at or "")
        return NoiseProfile(dlperf_version=__version__, sessions=tuple(ordered))

    def floor(self, cases: Iterable[tuple[Case, str]], metric: str, *, in_turns: bool) -> Floor | None:
        """The largest floor of cases on their hardware; None if none was calibrated there.

        `metric` is its name. `in_turns`: the cases were run in common blocks, so that what changes between
        sessions hits all of them. Otherwise `sessions` are the fewest of any of the cases.
        """
        keys = {
            (cell_name(case), case.framework, self._known_as(hardware), metric) for case, hardware in cases
        }
        found = [self.of_runs[key] for key in keys if key in self.of_runs]
        apart = [self.of_sessions[key] for key in keys if key in self.of_sessions and not in_turns]
        if not found:
            return None
        sessions = min((one.sessions for one in apart), default=0) if len(apart) == len(keys) else 0
        return Floor(max(one.value for one in (*found, *apart)), sessions=sessions)

    @cached_property
    def of_runs(self) -> dict[_Key, Floor]:
        """The quadratic mean over the sessions; of several versions the largest."""
        squares: dict[tuple[_Key, str], list[float]] = defaultdict(list)
        for one in self._all:
            squares[self.key(one), one.case].append(one.noise_floor**2)
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
            levels[self.key(one), one.case].append(math.log(one.level))
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

    def key(self, one: CaseNoise) -> _Key:
        """Equal for the noise of one case on one kind of machine."""
        return (one.cell, one.framework, self._known_as(one.hardware), one.metric)

    def _known_as(self, hardware: str) -> str:
        return next((kind for kind in self._hardware if same_hardware(kind, hardware)), hardware)

    @cached_property
    def _hardware(self) -> tuple[str, ...]:
        kinds = kinds_of_hardware(one.hardware for one in self._all)
        return tuple(dict.fromkeys(kinds.values()))

    @property
    def _all(self) -> Iterator[CaseNoise]:
        return (noise for session in self.sessions for noise in session.noise)

    @property
    def false_alarms(self) -> int:
        """Splits with a regression, over all sessions."""
        return sum(one.false_alarms for one in self.sessions)

    @property
    def splits(self) -> int:
        """Over all sessions."""
        return sum(one.splits for one in self.sessions)

    @property
    def cases(self) -> int:
        """How many cases were calibrated."""
        return len({one.case for one in self._all})

    @property
    def runs(self) -> tuple[int, ...]:
        """Numbers of runs per side, each once."""
        return tuple(sorted({one.runs for one in self.sessions}))

    @property
    def days(self) -> tuple[str, ...]:
        """Days on which sessions began, such as `2026-01-31`, each once, as far as known."""
        return tuple(sorted({one.started_at[:10] for one in self.sessions if one.started_at}))


def _largest(floors: Iterable[tuple[_Key, Floor]]) -> dict[_Key, Floor]:
    found: dict[_Key, Floor] = {}
    for key, floor in floors:
        found[key] = max(found.get(key, floor), floor, key=lambda each: each.value)
    return found


def default_noise_profile() -> Path | None:
    """The file of `dlperf qualify` in its default place, from the current folder; None if there is none."""
    usual = Path("baselines") / NOISE_PROFILE_NAME
    return usual if usual.is_file() else None


def read_noise_profile(path: Path) -> NoiseProfile:
    """A saved noise profile; UserError if there is none that can be read."""
    return read_document(path, NoiseProfile, kind="qualification", remedy="`dlperf qualify SWEEP` writes one")
