"""A case's energy from its runs', and why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.results.statistics import quantile

if TYPE_CHECKING:
    from dlperf.plan.case import Case
    from dlperf.results.figures import CaseFigures
    from dlperf.results.schema import Energy

_PER = 1000  # samples
# RAPL counts every program: above this share of the CPUs others have used too much of what it says.
MOST_OF_OTHERS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFigure:
    """Joules per 1 000 samples, the median over the good runs that tell; None with a reason where none does.

    `source` is `nvml` for a case on GPUs and `rapl` for one on CPUs.
    """

    joules: float | None
    source: str
    devices: tuple[str, ...] = ()
    reason: str | None = None


def energy_of(figure: CaseFigures) -> EnergyFigure | None:
    """The energy of a case; None where no meter ran beside any of its good runs."""
    source = source_of(figure.case)
    metered = [
        run.result.energy for run in figure.runs if run.result.figures and run.result.energy is not None
    ]
    if not metered:
        return None
    told = [energy for energy in metered if why_not(energy, source) is None]
    if not told:
        return EnergyFigure(joules=None, source=source, reason=why_not(metered[0], source))
    return EnergyFigure(
        joules=quantile([per_1000_samples(energy, source) for energy in told], 0.5),
        source=source,
        devices=told[0].devices_of(source),
    )


def source_of(case: Case) -> str:
    """What counts the devices that the case trains on."""
    return "nvml" if case.device == "cuda" else "rapl"


def per_1000_samples(energy: Energy, source: str) -> float:
    """Joules; `why_not` must have said nothing."""
    return energy.joules[source] / (energy.samples or 0) * _PER


def why_not(energy: Energy, source: str) -> str | None:
    """Why a run's energy of a source stands in no report; None where it may."""
    if source not in energy.joules or not energy.samples:
        return energy.unreadable.get(source, "no reading")
    share = energy.other_cpu_share
    if source != "rapl" or (share is not None and share <= MOST_OF_OTHERS):
        return None
    others = (
        "nobody knows what others did" if share is None else f"others used {100 * share:.0f} % of its CPUs"
    )
    return f"RAPL counts every program of the machine, and {others}"
