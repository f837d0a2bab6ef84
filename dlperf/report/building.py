"""From folders to a report's document: what is read, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.adapters.registry import load_adapters
from dlperf.errors import UserError
from dlperf.report.alignment import alignment_lines
from dlperf.report.document import Document, document
from dlperf.results.query import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def build_report(paths: Sequence[Path], *, certificate: Path | None, strict: bool) -> Document:
    """The report of the results under the paths.

    Args:
        paths: results folders or folders of sweeps.
        certificate: of `dlperf align`; None looks for align.json in the sweeps' folders.
        strict: raise where results cannot be read or come from different hardware.

    Raises:
        UserError: there is no result, or (`strict`) something would be skipped or set apart.
    """
    loaded = load(paths, strict=strict)
    hardware = sorted({run.hardware for run in loaded.results.runs})
    if strict and len(hardware) > 1:
        raise UserError(
            "results of different hardware are not comparable:\n" + "\n".join(f"  {one}" for one in hardware)
        )
    titles = {name: adapter.title for name, adapter in load_adapters().items()}
    return document(loaded, titles=titles, alignment=alignment_lines(loaded, certificate))
