"""A certificate for a person's eyes: what was aligned, a table of the pairs, what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dlperf.align.verdict import faults

if TYPE_CHECKING:
    from dlperf.align.certificate import Certificate, Figures, Pair
    from dlperf.plan.case import Case

_HEADINGS = (
    "embeddings",
    "loss, step 1",
    "loss, later",
    "gradient norms",
    "first update",
    "parameters",
    "statistics",
)


def pairs_table(certificate: Certificate) -> Table:
    """One line a pair: the largest relative differences, and the first array that differs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pair")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    table.add_column("first to differ")
    table.add_column("")
    for pair in (*certificate.pairs, *certificate.reference):
        cells = _figures(pair.figures) if pair.figures else ["-"] * len(_HEADINGS)
        table.add_row(
            Text(f"{pair.first}, {pair.second}"),
            *cells,
            Text(pair.first_to_differ or ""),
            Text("aligned", "green") if pair.passed else Text(_failed(pair), "red"),
        )
    return table


def heading(certificate: Certificate) -> str:
    """What was compared and under which conditions, in two lines."""
    case, workload = certificate.case, certificate.case.workload
    return (
        f"{certificate.experiment}: {workload.network}, head {workload.head}, {workload.loss.kind}, "
        f"{certificate.steps} steps of {case.global_batch_size} images, {case.num_classes} classes, "
        f"fp32 on {case.device}\n"
        f"{_statistics(case)}"
        "dropout is off, weights and learning rate are those of the probe (docs/alignment.md); "
        f"relative differences up to {certificate.tolerance.first_step:g} (first step) and "
        f"{certificate.tolerance.after_steps:g} (gradients, later steps) pass\n"
    )


def _statistics(case: Case) -> str:
    """What BatchNorm normalises by, where that is not the whole batch."""
    if case.workload.batch_norm == "frozen":
        return "BatchNorm is frozen: it normalises by given statistics; "
    if case.topology.world_size > 1:
        return f"BatchNorm normalises each device's {case.batch_size_per_device} images by themselves; "
    return ""


def findings(certificate: Certificate) -> str:
    """The verdict, or a line for each fault."""
    if certificate.passed:
        names = sum(1 for one in certificate.contenders if not one.error)
        return f"aligned: {names} contenders, {certificate.verdict}\n"
    found = faults(certificate.contenders, certificate.pairs, certificate.reference)
    return "".join(f"not aligned: {fault}\n" for fault in found)


def _figures(figures: Figures) -> list[str]:
    values = (
        figures.embeddings,
        figures.losses[0],
        max(figures.losses[1:], default=0.0),
        figures.gradient_norm.difference,
        figures.first_step.difference,
        figures.parameters.difference,
        figures.statistics.difference,
    )
    return [f"{value:.0e}" for value in values]


def _failed(pair: Pair) -> str:
    return "NOT ALIGNED" if pair.figures else "NOT COMPARED"
