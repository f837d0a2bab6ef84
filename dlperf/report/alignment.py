"""Whether the frameworks of each experiment are proven to compute the same function, in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.markdown import Markdown

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.results.query import Loaded

NO_CERTIFICATE = Markdown("**not proven** (no align.json beside the results; `dlperf align` makes one)")


def alignment_lines(loaded: Loaded, certificate: Path | None) -> dict[str, Markdown]:
    """One line for each experiment of the results."""
    del certificate
    return {figure.case.workload.experiment: NO_CERTIFICATE for figure in loaded.figures}
