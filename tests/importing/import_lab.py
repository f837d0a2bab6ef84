"""Logs to import, and what the user says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlperf.errors import UserError
from dlperf.importing.case import facts_of_settings
from dlperf.importing.run_folders import Done, Instructions, import_file

if TYPE_CHECKING:
    from pathlib import Path

TOLD = {"version": "0.3.4", "experiment": "r100_emore", "parallelism": "data"}


def instructions(folder: Path, *, method: str = "samples/seconds", **told: str) -> Instructions:
    return Instructions(
        sweep=folder / "results" / "imported",
        method=method,
        dialect="auto",
        settings=facts_of_settings({**TOLD, **told}, "--set"),
        rules=(),
        here=folder,
    )


def oneflow_log(path: Path, rates: list[float], *, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"train: iter {step}, loss {40 - step / 100:.4f}, throughput: {rate:.3f}\n"
            for step, rate in enumerate(rates, first)
        )
    )
    return path


def partial_fc_log(path: Path, made: list[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"rank-id:0:2020-12-25 10:00:00,123-Iter:{20 * step} Rank:100.00 it/sec Total:{rate:.2f} it/sec "
            "[0][loss]:43.21 \n"
            for step, rate in enumerate(made, 1)
        )
    )
    return path


def imported(path: Path, given: Instructions) -> list[Done]:
    """What came of a file; raises its error."""
    done = []
    for outcome in import_file(path, given):
        if isinstance(outcome, UserError):
            raise outcome
        done.append(outcome)
    return done


def rates(count: int, *, around: float = 245.0) -> list[float]:
    generator = np.random.default_rng(1)
    return [round(float(rate), 3) for rate in around + generator.random(count) * 10]
