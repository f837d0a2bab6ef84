"""The data behind a report: a row per case, each followed by a row per run of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from dlperf.report.columns import cost_per_million_samples
from dlperf.report.view import View
from dlperf.results.cases import CaseFigures
from dlperf.results.tables import CASES, LISTED, RUNS, Column, cases_table, runs_table, typed

_OF_CASES: Final = ("scaling_efficiency", "share_of_matmul_rate")
_OF_RUNS: Final = ("repeat", "run_folder", "started_at", "run_seconds", "accepted_steps", "dropped_steps")
_BY_NAME: Final = {column.name: column for column in (*RUNS, *CASES)}
DATA: Final = (
    Column("row", "text", "`case` or `run`"),
    *LISTED,
    *(_BY_NAME[name] for name in _OF_CASES),
    Column("cost_per_million_samples", "number", "at the given price per device and hour"),
    _BY_NAME["phase_seconds"],
    *(_BY_NAME[name] for name in _OF_RUNS),
)


def data_table(figures: Sequence[CaseFigures], view: View) -> pd.DataFrame:
    """The columns of `DATA`: a row per case, each followed by a row per run of it."""
    runs = runs_table(figures)
    cases = cases_table(figures, runs)
    price = view.price_per_device_hour
    if price is not None:
        devices = cases["nodes"] * cases["devices_per_node"]
        cases["cost_per_million_samples"] = [
            cost_per_million_samples(rate, devices=count, price_per_device_hour=price)
            for rate, count in zip(cases["samples_per_sec"], devices, strict=True)
        ]
    both = pd.concat([cases.assign(row="case", case_row=cases.index), runs.assign(row="run")])
    return typed(both.sort_values("case_row", kind="stable"), DATA)
