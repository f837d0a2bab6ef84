"""From folders to a report's document: what is read, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.adapters.registry import load_adapters
from dlperf.errors import UserError
from dlperf.report.alignment import read_certificates
from dlperf.report.document import Document, document
from dlperf.results.query import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def build_report(paths: Sequence[Path], *, certificates: Sequence[Path] = (), strict: bool) -> Document:
    """The report of the results under the paths.

    Args:
        paths: results folders or folders of sweeps.
        certificates: of `dlperf align`; without any, each sweep's folder is looked into for align.json.
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
    found, damaged = read_certificates(loaded.results.sweeps, given=certificates)
    if strict and damaged:
        raise UserError("\n".join(map(str, damaged)))
    return document(loaded, titles=titles, certificates=found, skipped=(*loaded.results.skipped, *damaged))
