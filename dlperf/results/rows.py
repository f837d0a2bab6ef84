"""Cases as flat rows: what `dlperf results` prints as JSON and CSV. docs/results.md names each field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dlperf.plan.case import Case
    from dlperf.results.figures import CaseFigures

Value = str | int | float | None
Row = dict[str, Value]


def rows(figures: Sequence[CaseFigures]) -> list[Row]:
    """One flat row a case, in the order of the figures. Where there is no number stands None and a status."""
    by_case = speedups(figures)
    return [_row(figure, by_case[index]) for index, figure in enumerate(figures)]


def _row(figure: CaseFigures, speedup: float | None) -> Row:
    case, summary = figure.case, figure.summary
    interval = summary.interval if summary else None
    return {
        "case_id": case.case_id,
        "framework": case.framework,
        "version": case.version,
        "experiment": case.workload.experiment,
        "network": case.workload.network,
        "dataset": case.workload.dataset,
        "parallelism": case.parallelism,
        "sample_ratio": case.sample_ratio,
        "topology": str(case.topology),
        "nodes": case.topology.nodes,
        "devices_per_node": case.topology.devices_per_node,
        "device": case.device,
        "batch_size_per_device": case.batch_size_per_device,
        "num_classes": case.num_classes,
        "precision": case.precision,
        "threads_per_device": figure.threads_per_device,
        "options": json.dumps(case.options, sort_keys=True) if case.options else None,
        "status": figure.status.value,
        "samples_per_sec": summary.median if summary else None,
        "samples_per_sec_min": summary.minimum if summary else None,
        "samples_per_sec_max": summary.maximum if summary else None,
        "cv": summary.cv if summary else None,
        "interval_low": interval.low if interval else None,
        "interval_high": interval.high if interval else None,
        "runs_ok": len(figure.good),
        "runs_failed": len(figure.failed),
        "runs_missing": figure.missing_runs,
        "speedup": speedup,
        "step_seconds_median": figure.step_seconds_median,
        "step_seconds_p95": figure.step_seconds_p95,
        "loss_first": figure.good[0].loss_first if figure.good else None,
        "loss_last": figure.good[0].loss_last if figure.good else None,
        "peak_memory_bytes": figure.peak_memory_bytes,
        "model_flops_per_second": figure.model_flops_per_second,
        "matmul_flops_per_second": figure.matmul_flops_per_second,
        "reason": figure.reason,
        "evidence": figure.evidence,
        "hardware": figure.hardware,
        "not_known": ", ".join(sorted(figure.not_known)) or None,
        "results": str(figure.sweep),
    }


def speedups(figures: Sequence[CaseFigures]) -> tuple[float | None, ...]:
    """Each case's samples/s over that of 1n1g, all else equal; None without one of the two."""
    keys = [_key_without_topology(figure) for figure in figures]
    single = {
        key: figure.summary.median
        for key, figure in zip(keys, figures, strict=True)
        if figure.summary is not None and figure.case.topology.world_size == 1
    }
    return tuple(
        figure.summary.median / single[key] if figure.summary is not None and key in single else None
        for key, figure in zip(keys, figures, strict=True)
    )


def _key_without_topology(figure: CaseFigures) -> tuple[object, ...]:
    case = canonical(figure.case, leaving_out=("topology",))
    return (str(figure.sweep), figure.hardware, figure.not_known, case)


def canonical(case: Case, *, leaving_out: Iterable[str]) -> str:
    """The case as canonical JSON without some of its fields: equal for cases that differ in those alone."""
    content: Mapping[str, object] = case.model_dump(mode="json", exclude=set(leaving_out))
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
