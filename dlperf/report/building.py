"""From folders to a report's document: what is read, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.registry import load_adapters
from dlperf.errors import UserError
from dlperf.report.alignment import read_certificates
from dlperf.report.document import Document, document
from dlperf.results.noise_profile import read_noise_profile
from dlperf.results.query import load, run_sources

if TYPE_CHECKING:
    from dlperf.report.request import Request


def build_report(
    request: Request, *, beside: Path | None = None, strict: bool = False, from_logs: bool = False
) -> Document:
    """The report that is asked for.

    Args:
        request: what is asked for.
        beside: the folder that the report will lie in; None is the current one.
        strict: raise where results cannot be read or come from different hardware.
        from_logs: make every result again from its log in place of reading it.

    Raises:
        UserError: there is no result, or (`strict`) something would be skipped or set apart.
    """
    loaded = load(request.paths, strict=strict, from_logs=from_logs)
    hardware = sorted({run.hardware for run in loaded.results.runs})
    if strict and len(hardware) > 1:
        raise UserError(
            "results of different hardware are not comparable:\n" + "\n".join(f"  {one}" for one in hardware)
        )
    titles = {name: adapter.title for name, adapter in load_adapters().items()}
    found, damaged = read_certificates(loaded.results.sweeps, given=request.certificates)
    if strict and damaged:
        raise UserError("\n".join(map(str, damaged)))
    return document(
        loaded,
        titles=titles,
        certificates=found,
        noise_profile=read_noise_profile(request.qualification) if request.qualification else None,
        skipped=(*loaded.results.skipped, *damaged),
        view=request.view,
        beside=beside or Path(),
        sources={run.folder: run_sources(run.folder) for run in loaded.results.runs},
    )
