"""Results as two pandas tables, one of runs and one of cases, for whoever counts, groups, pivots or joins.

`CASES` and `RUNS` document each column once; `dlperf schema cases` and docs/python.md show them. Text is
`string`, a whole number `Int64` and any other number `float64`: a missing value is NA or NaN, never a number.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import pandas as pd

from dlperf.errors import UserError
from dlperf.results.cases import (
    ROW_FIELDS,
    VARIANT_FIELDS,
    CaseFigures,
    canonical,
    matmul_shares,
    speedups,
)
from dlperf.results.schema import PEAKS, DataReading
from dlperf.results.store import StoredRun
from dlperf.statistics.basic import cost_per_million_samples

Value = str | int | float | None
Record = dict[str, Value]
Kind = Literal["text", "whole", "number"]

_DTYPES: Mapping[Kind, Any] = {
    "text": pd.StringDtype("python"),
    "whole": pd.Int64Dtype(),
    "number": "float64",
}
_ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it holds, as what, in which unit."""

    kind: Kind
    name: str
    meaning: str
    unit: str = ""

    @property
    def dtype(self) -> str:
        """Such as `Int64`."""
        return str(_DTYPES[self.kind])


_text, _whole, _number = partial(Column, "text"), partial(Column, "whole"), partial(Column, "number")

# What is asked for: the same in a row of a case and in those of its runs.
_CASE: Final = (
    _text("case_id", "name of the case; its last 12 digits are the hash of its content"),
    _text("framework", "such as `mxnet`"),
    _text("version", "of the framework, such as `1.9.1`"),
    _text("experiment", "name of the workload"),
    _text("network", "backbone of the workload"),
    _text("dataset", "whose number of classes and images is used"),
    _text("loop", "whose training loop: `own` or `original`; missing if not known"),
    _text("data", "`synthetic`, or the data set and how it is read, such as `faces (warm)`"),
    _text("parallelism", "`data`, `model` or `partial_fc`"),
    _number("sample_ratio", "share of the classes that partial_fc samples"),
    _text("topology", "such as `2n8g`: 2 nodes with 8 devices each"),
    _whole("nodes", "number of nodes"),
    _whole("devices_per_node", "number of devices on each node"),
    _text("device", "`cpu` or `cuda`"),
    _whole("batch_size_per_device", "samples per device and iteration", "samples"),
    _whole("num_classes", "classes of the head", "classes"),
    _text("precision", "`fp32`, `fp16` or `bf16`"),
    _whole("threads_per_device", "CPU threads per device", "threads"),
    _text("options", "the framework's options as JSON text"),
)
_STATUS: Final = _text("status", "`ok`, or why there is no figure; `dlperf docs results` lists the values")
_REASON: Final = (
    _text("reason", "one line: why there is no figure, or what is odd about it"),
    _text("evidence", "the log line that shows the reason"),
)
_ORIGIN: Final = (
    _text("hardware", "what decides speed, on one line"),
    _text("not_known", "of an imported or published case: the settings that its source does not tell"),
    _text("results", "folder of the sweep, or `published:NAME`"),
)
_PEAKS: Final = tuple(
    _whole(name, f"{words} of the rank and good run with the most", "bytes") for name, words in PEAKS.items()
)
_PHASES: Final = _text("phase_seconds", "seconds of a profiled step by part, as JSON text")
_KEYS: Final = (
    _text("fp32_arithmetic", "what float32 products are computed in: `ieee` or `tf32`; missing if not known"),
    _text("gradient_dtype", "what gradients travel in, such as `float32`; missing if not known"),
    _text("settings_id", "equal where all but framework, version, options and a table's row is the same"),
    _text("series_id", "equal where all but the topology is the same"),
    _text("searched", "the column whose largest value was searched for"),
)

# What `dlperf results` lists, in this order.
LISTED: Final = (
    *_CASE,
    _STATUS,
    _number("samples_per_sec", "the figure: median of the good runs, all devices together", "samples/s"),
    _number("samples_per_sec_min", "slowest good run", "samples/s"),
    _number("samples_per_sec_max", "fastest good run", "samples/s"),
    _number("cv", "coefficient of variation of the good runs", "fraction"),
    _number("interval_low", "lower end of the 95 % t interval for the runs' geometric mean", "samples/s"),
    _number("interval_high", "upper end of the 95 % t interval for the runs' geometric mean", "samples/s"),
    _whole("runs_ok", "good runs", "runs"),
    _whole("runs_failed", "failed runs", "runs"),
    _whole("runs_missing", "planned runs without a result", "runs"),
    _number("speedup", "samples_per_sec over that of 1n1g, all else equal", "ratio"),
    _number("step_seconds_median", "median over the good runs of their median step", "s"),
    _number("step_seconds_p95", "median over the good runs of their 95th percentile", "s"),
    _number("loss_first", "first loss of the first good run"),
    _number("loss_last", "last loss of the first good run; missing where a loss was not finite"),
    *_PEAKS,
    _number("interference", "largest share of a run's CPU time that other work took", "fraction"),
    _number(
        "data_wait_share", "share of the time spent waiting for data, median over the good runs", "fraction"
    ),
    _number("data_bytes_per_second", "read by all ranks, median over the good runs", "bytes/s"),
    _number("data_resident_share", "of the files in the page cache before a run, at most", "fraction"),
    _number("model_flops_per_second", "FLOPs of a training sample x samples_per_sec", "FLOP/s"),
    _number("matmul_flops_per_second", "best rate of a large matrix product on one device", "FLOP/s"),
    *_REASON,
    *_ORIGIN,
)
CASES: Final = (
    *LISTED,
    _number("scaling_efficiency", "speedup / number of devices", "fraction"),
    _number("share_of_matmul_rate", "model FLOP/s over the best matrix product rate there, fp32", "fraction"),
    _PHASES,
    *_KEYS,
)
# As in `Telemetry`, and with its names.
_TELEMETRY: Final = (
    _number("sm_mhz", "median clock of the GPUs, the median over them", "MHz"),
    _number("throttled", "share of samples with clocks held back, of the GPU with most", "fraction"),
    _number("joules_per_1000_samples", "energy of all GPUs", "J"),
    _number("celsius", "highest temperature of a GPU", "C"),
    _whole("other_processes", "of others, on the GPU that had most"),
    _number("cpu_mhz", "median clock of the ranks' CPUs, of the slowest node", "MHz"),
    _number("sent_bytes_per_step", "by the node with most, headers included", "bytes"),
)
RUNS: Final = (
    _whole("case_row", "index of the run's case in the table of cases"),
    *_CASE,
    _STATUS,
    _number("samples_per_sec", "samples / seconds of the accepted steps, all devices together", "samples/s"),
    _number("step_seconds_median", "median of the accepted steps", "s"),
    _number("step_seconds_p95", "95th percentile of the accepted steps", "s"),
    _number("loss_first", "first loss"),
    _number("loss_last", "last loss; missing where a loss was not finite"),
    *_PEAKS,
    _number("interference", "share of its CPU time that other work took", "fraction"),
    _number("data_wait_share", "share of the time spent waiting for data", "fraction"),
    _number("data_bytes_per_second", "read by all ranks", "bytes/s"),
    _number("data_resident_share", "of the files in the page cache before the run", "fraction"),
    *_TELEMETRY,
    _number("model_flops_per_second", "FLOPs of a training sample x samples_per_sec", "FLOP/s"),
    _number("matmul_flops_per_second", "rate of a large matrix product on one device", "FLOP/s"),
    *_REASON,
    *_ORIGIN,
    _PHASES,
    _whole("repeat", "number of the run, from 1"),
    _text("run_folder", "where the run lies"),
    _text("started_at", "ISO 8601, UTC"),
    _number("run_seconds", "start of the processes to their end", "s"),
    _whole("accepted_steps", "iterations that count", "iterations"),
    _whole("dropped_steps", "iterations that do not count", "iterations"),
    *_KEYS,
)

_BY_NAME: Final = {column.name: column for column in (*RUNS, *CASES)}
# What `dlperf report --data` writes, in this order.
DATA: Final = (
    _text("row", "`case` or `run`"),
    *LISTED,
    *(_BY_NAME[name] for name in ("scaling_efficiency", "share_of_matmul_rate")),
    _number("cost_per_million_samples", "at the given price per device and hour"),
    _PHASES,
    *(_BY_NAME[name] for name in ("repeat", "run_folder", "started_at", "run_seconds")),
    *(_BY_NAME[name] for name in ("accepted_steps", "dropped_steps")),
)


class Tables(NamedTuple):
    """The two tables; `case_row` of a run is the index of its case, which is the case's place in its list."""

    runs: pd.DataFrame
    cases: pd.DataFrame


def tables(figures: Sequence[CaseFigures]) -> Tables:
    """The columns of `RUNS`, a row per run by case and repeat, and of `CASES`, a row per case in order."""
    settings = [_settings(figure) for figure in figures]
    cases = frame(
        [
            setting | _of_case(figure, speedup) | {"share_of_matmul_rate": share}
            for setting, figure, speedup, share in zip(
                settings, figures, speedups(figures), matmul_shares(figures), strict=True
            )
        ],
        CASES,
    )
    runs = frame(
        [
            {"case_row": number} | settings[number] | _of_run(run)
            for number, figure in enumerate(figures)
            for run in figure.runs
        ],
        RUNS,
    )
    return Tables(runs=runs, cases=cases)


def data_table(figures: Sequence[CaseFigures], *, price_per_device_hour: float | None) -> pd.DataFrame:
    """The columns of `DATA`: a row per case, each followed by a row per run of it."""
    runs, cases = tables(figures)
    price = math.nan if price_per_device_hour is None else price_per_device_hour
    devices = cases["nodes"] * cases["devices_per_node"]
    cases["cost_per_million_samples"] = [
        cost_per_million_samples(rate, devices=count, price_per_device_hour=price)
        for rate, count in zip(cases["samples_per_sec"], devices, strict=True)
    ]
    both = pd.concat([cases.assign(row="case", case_row=cases.index), runs.assign(row="run")])
    dtypes = {column.name: _DTYPES[column.kind] for column in DATA}
    return both.sort_values("case_row", kind="stable")[list(dtypes)].astype(dtypes)


def frame(records: Sequence[Mapping[str, Any]], columns: Iterable[Column]) -> pd.DataFrame:
    """The records as a table of these columns; what a record lacks is missing."""
    return pd.DataFrame(
        {
            column.name: pd.array([record.get(column.name) for record in records], dtype=_DTYPES[column.kind])
            for column in columns
        }
    )


def _settings(figure: CaseFigures) -> Record:
    """What is asked for, and where it ran: equal in the row of a case and in those of its runs."""
    case = figure.case
    named_like_columns = {**dict(case.workload), **dict(case.topology), **dict(case)}
    return named_like_columns | {
        "network": None if "network" in figure.not_known else case.workload.network,
        "case_id": case.case_id,
        "loop": figure.loop,
        "data": figure.data,
        "topology": str(case.topology),
        "threads_per_device": figure.threads_per_device,
        "options": json.dumps(case.options, sort_keys=True) if case.options else None,
        "hardware": figure.hardware,
        "not_known": ", ".join(sorted(figure.not_known)) or None,
        "results": str(figure.sweep),
        "searched": case.search.axis if case.search is not None else None,
        "fp32_arithmetic": figure.fp32_arithmetic,
        "gradient_dtype": figure.gradient_dtype,
        "settings_id": _id(figure, leaving_out=(*ROW_FIELDS, *VARIANT_FIELDS, "search")),
        "series_id": _id(figure, leaving_out=("topology",)),
    }


def _id(figure: CaseFigures, *, leaving_out: Iterable[str]) -> str:
    """Of float32 as it is defined the case alone counts, so that ids stay what they were."""
    arithmetic = "" if figure.fp32_arithmetic == "ieee" else str(figure.fp32_arithmetic)
    loop = "" if figure.case.source is None else "original"
    content = canonical(figure.case, leaving_out=leaving_out) + arithmetic + loop
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_DIGITS]


def _of_case(figure: CaseFigures, speedup: float | None) -> Record:
    summary, good = figure.summary, figure.good
    interval = summary.interval if summary else None
    return {
        "status": figure.status.value,
        "samples_per_sec": summary.median if summary else None,
        "samples_per_sec_min": summary.minimum if summary else None,
        "samples_per_sec_max": summary.maximum if summary else None,
        "cv": summary.cv if summary else None,
        "interval_low": interval.low if interval else None,
        "interval_high": interval.high if interval else None,
        "runs_ok": len(good),
        "runs_failed": len(figure.failed),
        "runs_missing": figure.missing_runs,
        "speedup": speedup,
        "scaling_efficiency": speedup / figure.case.topology.world_size if speedup is not None else None,
        "step_seconds_median": figure.step_seconds_median,
        "step_seconds_p95": figure.step_seconds_p95,
        "loss_first": good[0].loss_first if good else None,
        "loss_last": good[0].loss_last if good else None,
        **figure.peaks,
        "interference": figure.interference,
        "data_wait_share": figure.data_wait_share,
        "data_bytes_per_second": figure.data_bytes_per_second,
        "data_resident_share": max(figure.resident_shares, default=None),
        "model_flops_per_second": figure.model_flops_per_second,
        "matmul_flops_per_second": figure.matmul_flops_per_second,
        "reason": figure.reason,
        "evidence": figure.evidence,
        "phase_seconds": json.dumps(figure.phase_seconds) if figure.phase_seconds else None,
    }


def _of_run(run: StoredRun) -> Record:
    result, figures = run.result, run.result.figures
    engine, reading = result.engine, result.reading or DataReading()
    record: Record = {
        "status": result.status.value,
        "matmul_flops_per_second": engine.matmul_flops_per_second,
        "interference": result.interference.share if result.interference is not None else None,
        "data_wait_share": reading.wait_share,
        "data_bytes_per_second": reading.bytes_per_second,
        "data_resident_share": reading.resident_share,
        **{column.name: getattr(result.telemetry, column.name, None) for column in _TELEMETRY},
        "reason": result.reason,
        "evidence": result.evidence,
        "phase_seconds": json.dumps(engine.phase_seconds) if engine.phase_seconds else None,
        "repeat": result.repeat,
        "run_folder": str(run.folder),
        "started_at": result.started_at,
        "run_seconds": result.seconds,
    }
    if figures is not None:
        cost = engine.training_flops_per_sample
        record |= figures.model_dump()
        record["model_flops_per_second"] = cost * figures.samples_per_sec if cost else None
    return record


def schema(columns: Iterable[Column]) -> dict[str, Any]:
    """The JSON Schema of a row, as `records` gives it, with the dtype and the unit of each column."""
    types = {"text": "string", "whole": "integer", "number": "number"}
    return {
        "type": "object",
        "properties": {
            column.name: {
                "type": [types[column.kind], "null"],
                "description": column.meaning,
                "dtype": column.dtype,
                "unit": column.unit or None,
            }
            for column in columns
        },
    }


def records(table: pd.DataFrame) -> list[Record]:
    """The rows as Python's own numbers and text; None where a value is missing."""
    return table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[return-value]


DATA_FORMS: Final = ("csv", "json", "parquet")


def encoded(table: pd.DataFrame, form: str) -> bytes:
    """The table in one of `DATA_FORMS`; a missing value is null, or an empty field.

    UserError where Parquet is asked for and pyarrow is not installed.
    """
    if form == "csv":
        return table.to_csv(index=False, lineterminator="\n").encode()
    if form == "json":
        # pandas' to_json writes 15 digits after the point, which changes figures.
        return (json.dumps(records(table), indent=2, ensure_ascii=False) + "\n").encode()
    stream = io.BytesIO()
    try:
        table.to_parquet(stream, engine="pyarrow", index=False)
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: pip install 'dlperf[parquet]'") from error
    return stream.getvalue()
