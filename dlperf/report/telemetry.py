"""What the nodes and their devices did while they measured: a row per case, and what explains a figure.

A case's number is the median over its good runs; of what should not happen at all it is the largest.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from dlperf.report.columns import TableContext
from dlperf.report.comparison import Comparison
from dlperf.report.numbers import factor, mebibytes, percent, rate
from dlperf.report.tables import case_cells
from dlperf.report.text import Cells, Column, Inline, Table, Text, joined, number, say, table_of
from dlperf.results.cases import CaseFigures
from dlperf.results.schema import Telemetry

# Clocks held back for a smaller share of the time explain no figure.
MOST_HELD_BACK = 0.05
# Of the smallest share that a table shows: less is 0.0 %.
_LEAST_SHARE = 0.0005
_MOST_MISSING = 6


def of_good_runs(figure: CaseFigures) -> list[Telemetry]:
    """What was sampled in the runs that have a figure."""
    found = (run.result.telemetry for run in figure.runs if run.result.figures is not None)
    return [one for one in found if one is not None]


def middle(figure: CaseFigures, name: str) -> float | None:
    """The median over the good runs of a field of `Telemetry`; None where none has it."""
    values = [value for one in of_good_runs(figure) if (value := getattr(one, name)) is not None]
    return median(values) if values else None


def most(figure: CaseFigures, name: str) -> float | None:
    """The same, the largest."""
    values = (getattr(one, name) for one in of_good_runs(figure))
    return max((value for value in values if value is not None), default=None)


def held_back_by(figure: CaseFigures) -> tuple[str, ...]:
    """Why clocks were held back in its good runs; words of `dlperf.results.telemetry.REASONS`."""
    return tuple(dict.fromkeys(reason for one in of_good_runs(figure) for reason in one.throttled_by))


REASON_WORDS: Final[Mapping[str, Text]] = {
    "power cap": say("power cap"),
    "hardware slowdown": say("hardware slowdown"),
    "software thermal slowdown": say("software thermal slowdown"),
    "hardware thermal slowdown": say("hardware thermal slowdown"),
    "power brake": say("power brake"),
}


def reason_words(figure: CaseFigures) -> Inline:
    """`power cap, hardware slowdown`."""
    return joined(REASON_WORDS.get(reason, reason) for reason in held_back_by(figure))


@dataclass(frozen=True, slots=True)
class _TelemetryColumn:
    """`says_little`: alone it is worth no table, as the interference of a run says it too."""

    heading: Text
    cell: Callable[[CaseFigures], Inline]
    numbers: bool = True
    says_little: bool = False


def _whole(name: str) -> Callable[[CaseFigures], str]:
    return lambda figure: "" if (value := middle(figure, name)) is None else f"{value:.0f}"


def _count(name: str) -> Callable[[CaseFigures], str]:
    """Empty at 0 too."""
    return lambda figure: f"{value:.0f}" if (value := most(figure, name)) else ""


def _share(name: str) -> Callable[[CaseFigures], str]:
    """Empty at 0 too."""
    return lambda figure: (
        percent(value, decimals=1) if (value := middle(figure, name) or 0.0) >= _LEAST_SHARE else ""
    )


def _clock(figure: CaseFigures) -> Inline:
    """Of GPUs that differ, from the lowest to the median."""
    clock, least = middle(figure, "sm_mhz"), middle(figure, "sm_mhz_least")
    if clock is None or least is None or f"{clock:.0f}" == f"{least:.0f}":
        return "" if clock is None else f"{clock:.0f}"
    return say("{low} to {high}", low=f"{least:.0f}", high=f"{clock:.0f}")


def _link(figure: CaseFigures) -> Inline:
    generation, width = middle(figure, "pcie_generation"), middle(figure, "pcie_width")
    return "" if generation is None or width is None else f"{generation:.0f} x{width:.0f}"


def _sent(figure: CaseFigures) -> str:
    size = middle(figure, "sent_bytes_per_step")
    return "" if size is None else rate(size / 1e6)


def _over_theory(figure: CaseFigures) -> str:
    size, theory = middle(figure, "sent_bytes_per_step"), middle(figure, "theory_bytes_per_step")
    return factor(size / theory) if size is not None and theory else ""


def _disk(figure: CaseFigures) -> str:
    size = middle(figure, "disk_bytes_per_second")
    return rate(size / 1e6) if size else ""


_COLUMNS: Final = (
    _TelemetryColumn(say("SM clock (MHz)"), _clock),
    _TelemetryColumn(say("memory clock (MHz)"), _whole("memory_mhz")),
    _TelemetryColumn(say("clocks held back"), _share("throttled")),
    _TelemetryColumn(
        say("by"), lambda figure: reason_words(figure) if held_back_by(figure) else "", numbers=False
    ),
    _TelemetryColumn(say("power (W)"), _whole("power_watts")),
    _TelemetryColumn(say("J per 1000 samples"), _whole("joules_per_1000_samples")),
    _TelemetryColumn(say("hottest (C)"), _count("celsius")),
    _TelemetryColumn(say("GPU busy"), _share("utilization")),
    _TelemetryColumn(say("GPU memory in use (MiB)"), lambda figure: mebibytes(most(figure, "memory_bytes"))),
    _TelemetryColumn(say("PCIe"), _link),
    _TelemetryColumn(say("processes of others"), _count("other_processes")),
    _TelemetryColumn(say("uncorrected memory errors"), _count("ecc_uncorrected")),
    _TelemetryColumn(say("remapped rows"), _count("remapped_rows")),
    _TelemetryColumn(say("CPU clock (MHz)"), _whole("cpu_mhz")),
    _TelemetryColumn(say("threads waiting for a CPU"), _share("waited"), says_little=True),
    _TelemetryColumn(say("stolen by other machines"), _share("stolen")),
    _TelemetryColumn(say("waiting for memory"), _share("pressure_memory")),
    _TelemetryColumn(say("waiting for disks"), _share("pressure_io"), says_little=True),
    _TelemetryColumn(say("MB sent per step"), _sent),
    _TelemetryColumn(say("sent / theory"), _over_theory),
    _TelemetryColumn(say("MB/s read from disk"), _disk),
)


def telemetry_table(context: TableContext) -> Table | None:
    """A row per case; columns that are empty everywhere are left out, and one that says little is none."""
    figures = [cell.figure for cell in context.cells()]
    shown = [column for column in _COLUMNS if any(column.cell(figure) != "" for figure in figures)]
    if all(column.says_little for column in shown):
        return None
    rows: list[Cells] = [
        {
            **case_cells(cell),
            **{
                number(column.heading) if column.numbers else Column(column.heading): column.cell(cell.figure)
                for column in shown
            },
        }
        for cell in context.cells()
    ]
    return table_of(say("Telemetry of the measured window"), rows)


def telemetry_notes(comparison: Comparison) -> Iterator[Text]:
    """What the samples lack."""
    lines = {
        joined((label, line), ": "): None
        for _, label, figure in comparison.cells()
        for one in of_good_runs(figure)
        for line in one.missing
    }
    if lines:
        yield say(
            "Telemetry is incomplete in some runs: {which}.", which=joined(list(lines)[:_MOST_MISSING], "; ")
        )
