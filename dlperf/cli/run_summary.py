"""What `dlperf run` prints at its end, as text and as JSON."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dlperf.cli.limits_view import limits_json, limits_table
from dlperf.cli.tables import rendered
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.plan.plan import Plan
    from dlperf.results.limits import StoredLimit
    from dlperf.running.stored import StoredResult


def summary_text(
    plan: Plan,
    stored: Sequence[StoredResult],
    folder: Path,
    limits: Sequence[StoredLimit],
    *,
    again: str,
) -> str:
    """What became of a sweep: counts, limits, failures, the next command. `again` is the one that ran it."""
    counts = Counter(item.result.status for item in stored)
    parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
    lines = [f"{plan.sweep}: {len(stored)} of {len(plan.runs)} runs: {', '.join(parts) or 'none'}"]
    left_out = Counter(item.status for item in plan.cases if item.reason is not None)
    if left_out:
        known_before = ", ".join(f"{count} {status}" for status, count in left_out.items())
        lines.append(f"cases that were not planned: {known_before} (why: {again} --dry-run)")
    if limits:
        lines += ["", rendered(limits_table(limits)).rstrip()]
    bad = [item for item in stored if item.result.status is not Status.OK]
    if bad:
        lines += ["", rendered(_failures(bad)).rstrip()]
        if any(item.result.status is not Status.NOT_MEASURED for item in bad):
            lines.append(f"Once the cause is gone: {again} --retry-failed")
    if stored:
        next_command = shlex.join(["dlperf", "report", str(folder), "--out", "report.md"])
        lines += ["", f"Next: {next_command}"]
    return "\n".join(lines) + "\n"


def _failures(bad: Sequence[StoredResult]) -> Table:
    """Runs of one case that failed for the same reason stand on one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "runs", "status", "reason", "evidence"):
        table.add_column(heading)
    groups: dict[tuple[str, str, str], list[StoredResult]] = {}
    for item in bad:
        result = item.result
        key = (result.case.case_id, str(result.status), result.reason or "")
        groups.setdefault(key, []).append(item)
    for (case_id, status, reason), items in groups.items():
        runs = " ".join(f"r{item.result.repeat}" for item in items)
        table.add_row(*map(Text, (case_id, runs, status, reason, _evidence(items[0]))))
    return table


def _evidence(item: StoredResult) -> str:
    return f"{item.folder}/{item.result.evidence}" if item.result.evidence else ""


def summary_json(
    plan: Plan, stored: Sequence[StoredResult], folder: Path, limits: Sequence[StoredLimit]
) -> str:
    """The same as JSON."""
    runs: list[dict[str, Any]] = [
        {
            "case_id": item.result.case.case_id,
            "repeat": item.result.repeat,
            "status": item.result.status,
            "reason": item.result.reason,
            "evidence": item.result.evidence,
            "samples_per_sec": item.result.figures.samples_per_sec if item.result.figures else None,
            "seconds": item.result.seconds,
            "folder": str(item.folder),
        }
        for item in stored
    ]
    content = {
        "sweep": plan.sweep,
        "results": str(folder),
        "planned_runs": len(plan.runs),
        "counts": Counter(item.result.status for item in stored),
        "runs": runs,
        **({"limits": limits_json(limits)} if limits else {}),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
