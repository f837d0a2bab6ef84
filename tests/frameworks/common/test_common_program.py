"""The outline of a training program."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import BATCHES, Batch
from frameworks.common.loop import FinishedStep


class Trainer:
    """Keeps what it was made for, and what it was fed."""

    phases = None

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.fed = batches, []

    def start_window(self) -> None:
        self.started = time.perf_counter()

    def step(self, batch: Batch, _iteration: int) -> FinishedStep:
        self.fed.append(batch)
        return FinishedStep(1.0, self.started)


def test_a_trainer_is_made_for_the_batches_that_its_steps_repeat(
    case_content: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So an engine can get them ready, in pinned memory for example, before anything is timed."""
    measure = {"warmup_iterations": 2, "measured_iterations": BATCHES}
    (tmp_path / "case.json").write_text(json.dumps({**case_content, "measure": measure}))
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "case.json")])
    made = []

    def make_trainer(_case: Case, _rank: Rank, batches: Sequence[Batch]) -> Trainer:
        made.append(Trainer(batches))
        return made[0]

    program.run(make_trainer, lambda _case: {}, lambda _case: 1.0)
    (trainer,) = made
    assert BATCHES == len({id(batch) for batch in trainer.batches})
    expected = itertools.islice(itertools.cycle(trainer.batches), 2 + BATCHES)
    assert all(batch is other for batch, other in zip(expected, trainer.fed, strict=True))
