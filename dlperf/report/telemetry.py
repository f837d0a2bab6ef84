"""What the nodes and their devices did while they measured: a row per case, and what explains a figure.

A case's number is the median over its good runs; of what should not happen at all it is the largest.
"""

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Final

from dlperf.report.columns import CaseColumn, TableCell, TableContext
from dlperf.report.comparison import Comparison
from dlperf.report.numbers import factor, mebibytes, percent, rate, reach
from dlperf.report.tables import case_table
from dlperf.report.text import Inline, Table, Text, joined, say
from dlperf.results.cases import CaseFigures
from dlperf.results.schema import Telemetry

# Clocks held back for a smaller share of the time explain no figure.
MOST_HELD_BACK = 0.05
# Of the smallest share that a table shows: less is 0.0 %.
_LEAST_SHARE = 0.0005
_MOST_MISSING = 6


def of_good_runs(figure: CaseFigures) -> list[Telemetry]:
    """What was sampled in the runs that have a figure."""
    return [run.result.telemetry for run in figure.good_runs if run.result.telemetry is not None]


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


def _whole(name: str) -> Callable[[TableCell], str]:
    return lambda cell: "" if (value := middle(cell.figure, name)) is None else f"{value:.0f}"


def _count(name: str) -> Callable[[TableCell], str]:
    """Empty at 0 too."""
    return lambda cell: f"{value:.0f}" if (value := most(cell.figure, name)) else ""


def _share(name: str) -> Callable[[TableCell], str]:
    """Empty at 0 too."""
    return lambda cell: (
        percent(value, decimals=1) if (value := middle(cell.figure, name) or 0.0) >= _LEAST_SHARE else ""
    )


def _clock(cell: TableCell) -> Inline:
    """Of GPUs that differ, from the lowest to the median."""
    clock, least = (_whole(name)(cell) for name in ("sm_mhz", "sm_mhz_least"))
    return reach(least or clock, clock) if clock else ""


def _link(cell: TableCell) -> Inline:
    generation, width = (_whole(name)(cell) for name in ("pcie_generation", "pcie_width"))
    return f"{generation} x{width}" if generation and width else ""


def _sent(cell: TableCell) -> str:
    size = middle(cell.figure, "sent_bytes_per_step")
    return "" if size is None else rate(size / 1e6)


def _disk(cell: TableCell) -> str:
    size = middle(cell.figure, "disk_bytes_per_second")
    return rate(size / 1e6) if size else ""


def _over_theory(cell: TableCell) -> str:
    size, theory = (middle(cell.figure, f"{name}_bytes_per_step") for name in ("sent", "theory"))
    return factor(size / theory) if size is not None and theory else ""


# Alone they are worth no table, as the interference of a run says it too.
_SAY_LITTLE: Final = (
    CaseColumn(say("threads waiting for a CPU"), _share("waited")),
    CaseColumn(say("waiting for disks"), _share("pressure_io")),
)
_COLUMNS: Final = (
    CaseColumn(say("SM clock (MHz)"), _clock),
    CaseColumn(say("memory clock (MHz)"), _whole("memory_mhz")),
    CaseColumn(say("clocks held back"), _share("throttled")),
    CaseColumn(
        say("by"),
        lambda cell: reason_words(cell.figure) if held_back_by(cell.figure) else "",
        numbers=False,
    ),
    CaseColumn(say("power (W)"), _whole("power_watts")),
    CaseColumn(say("J per 1000 samples"), _whole("joules_per_1000_samples")),
    CaseColumn(say("hottest (C)"), _count("celsius")),
    CaseColumn(say("GPU busy"), _share("utilization")),
    CaseColumn(say("GPU memory in use (MiB)"), lambda cell: mebibytes(most(cell.figure, "memory_bytes"))),
    CaseColumn(say("PCIe"), _link),
    CaseColumn(say("processes of others"), _count("other_processes")),
    CaseColumn(say("uncorrected memory errors"), _count("ecc_uncorrected")),
    CaseColumn(say("remapped rows"), _count("remapped_rows")),
    CaseColumn(say("CPU clock (MHz)"), _whole("cpu_mhz")),
    _SAY_LITTLE[0],
    CaseColumn(say("stolen by other machines"), _share("stolen")),
    CaseColumn(say("waiting for memory"), _share("pressure_memory")),
    _SAY_LITTLE[1],
    CaseColumn(say("MB sent per step"), _sent),
    CaseColumn(say("sent / theory"), _over_theory),
    CaseColumn(say("MB/s read from disk"), _disk),
)


def telemetry_table(context: TableContext) -> Table | None:
    """A row per case, without columns that are empty everywhere; None where the others say little."""
    cells = list(context.cells())
    shown = [column for column in _COLUMNS if any(column.cell(cell) != "" for cell in cells)]
    if all(column in _SAY_LITTLE for column in shown):
        return None
    return case_table(context, shown, caption=say("Telemetry of the measured window"))


def telemetry_notes(comparison: Comparison) -> Iterator[Text]:
    """What the samples lack."""
    lines = dict.fromkeys(
        joined((label, line), ": ")
        for _, label, figure in comparison.cells()
        for one in of_good_runs(figure)
        for line in one.missing
    )
    if lines:
        yield say(
            "Telemetry is incomplete in some runs: {which}.", which=joined(list(lines)[:_MOST_MISSING], "; ")
        )
