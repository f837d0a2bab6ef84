"""The data behind a report: one flat row a case, one a run behind it. docs/results.md names the fields."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Final

from dlperf.errors import UserError
from dlperf.report.columns import ceilings, cost_per_million_samples, share_of_ceiling
from dlperf.results.cases import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.report.view import View
    from dlperf.results.cases import CaseFigures, Row
    from dlperf.results.store import StoredRun

DATA_FORMS: Final = ("csv", "json", "parquet")
# Fields that `dlperf results` does not have.
_OF_CASES: Final = ("scaling_efficiency", "share_of_matmul_rate", "cost_per_million_samples", "phase_seconds")
_OF_RUNS: Final = ("repeat", "run_folder", "started_at", "run_seconds", "accepted_steps", "dropped_steps")
_WHOLE: Final = frozenset(
    {
        "nodes",
        "devices_per_node",
        "batch_size_per_device",
        "num_classes",
        "threads_per_device",
        "runs_ok",
        "runs_failed",
        "runs_missing",
        "peak_memory_bytes",
        "repeat",
        "accepted_steps",
        "dropped_steps",
    }
)
_TEXT: Final = frozenset(
    {
        "row",
        "case_id",
        "framework",
        "version",
        "experiment",
        "network",
        "dataset",
        "parallelism",
        "topology",
        "device",
        "precision",
        "options",
        "status",
        "reason",
        "evidence",
        "hardware",
        "not_known",
        "results",
        "phase_seconds",
        "run_folder",
        "started_at",
    }
)


def data_rows(figures: Sequence[CaseFigures], view: View) -> list[Row]:
    """A row of kind `case` for each figure, each followed by its rows of kind `run`."""
    best = ceilings(figures)
    made: list[Row] = []
    for figure, row in zip(figures, rows(figures), strict=True):
        empty: Row = dict.fromkeys(_OF_RUNS)
        made.append({"row": "case", **row, **_of_case(figure, row, best, view), **empty})
        made += [{**made[-1], **_of_run(run)} for run in figure.runs]
    return made


def _of_case(figure: CaseFigures, row: Row, best: dict[tuple[str, int], float], view: View) -> Row:
    case, speedup, price = figure.case, row["speedup"], view.price_per_device_hour
    devices = case.topology.world_size
    rate = figure.summary.median if figure.summary else None
    return {
        "scaling_efficiency": speedup / devices if isinstance(speedup, float) else None,
        "share_of_matmul_rate": share_of_ceiling(figure, best),
        "cost_per_million_samples": cost_per_million_samples(
            rate, devices=devices, price_per_device_hour=price
        )
        if rate is not None and price is not None
        else None,
        "phase_seconds": json.dumps(figure.phase_seconds) if figure.phase_seconds else None,
    }


# What is of a case alone and would mislead beside one of its runs.
_NOT_OF_A_RUN: Final = dict.fromkeys(
    (
        *("samples_per_sec_min", "samples_per_sec_max", "cv", "interval_low", "interval_high", "speedup"),
        *("runs_ok", "runs_failed", "runs_missing", *_OF_CASES, "model_flops_per_second"),
    )
)


def _of_run(run: StoredRun) -> Row:
    result, figures = run.result, run.result.figures
    phases, cost = result.engine.phase_seconds, result.engine.training_flops_per_sample
    return {
        **_NOT_OF_A_RUN,
        "row": "run",
        "status": result.status.value,
        "reason": result.reason,
        "evidence": result.evidence,
        "samples_per_sec": figures.samples_per_sec if figures else None,
        "step_seconds_median": figures.step_seconds_median if figures else None,
        "step_seconds_p95": figures.step_seconds_p95 if figures else None,
        "loss_first": figures.loss_first if figures else None,
        "loss_last": figures.loss_last if figures else None,
        "peak_memory_bytes": figures.peak_memory_bytes if figures else None,
        "model_flops_per_second": cost * figures.samples_per_sec if figures and cost else None,
        "matmul_flops_per_second": result.engine.matmul_flops_per_second,
        "phase_seconds": json.dumps(phases) if phases else None,
        "repeat": result.repeat,
        "run_folder": str(run.folder),
        "started_at": result.started_at,
        "run_seconds": result.seconds,
        "accepted_steps": figures.accepted_steps if figures else None,
        "dropped_steps": figures.dropped_steps if figures else None,
    }


def written(made: Sequence[Row], form: str) -> bytes:
    """The rows in one of `DATA_FORMS`; None is null, or an empty field.

    Raises:
        UserError: Parquet is asked for and pyarrow is not installed.
    """
    if form == "json":
        return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()
    return _csv(made).encode() if form == "csv" else _parquet(made)


def _csv(made: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, made[0] if made else [], lineterminator="\n")
    table.writeheader()
    table.writerows(made)
    return text.getvalue()


def _parquet(made: Sequence[Row]) -> bytes:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415  an extra
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: pip install 'dlperf[parquet]'") from error
    names = list(made[0]) if made else []
    kinds = {True: pa.string(), False: pa.float64()}
    schema = pa.schema([(name, pa.int64() if name in _WHOLE else kinds[name in _TEXT]) for name in names])
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(made), schema=schema), stream)
    return stream.getvalue()
