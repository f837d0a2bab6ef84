"""Partial FC: what is sampled, and that nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlperf.plan.case import Optimizer, Schedule
from frameworks.common.case import read_case
from frameworks.common.sampling import sample_size

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Arrays = dict[str, np.ndarray]
RATES = (0.1, 0.05, 0.05)


def test_the_devices_own_sampler_keeps_the_positives_and_draws_by_its_seed(
    parallel_case: Callable[..., Path], run_program: Callable[..., Arrays]
) -> None:
    path = parallel_case("sampled", parallelism="partial_fc", sample_ratio=0.1, num_classes=501)

    found = run_program("samples", path)

    case = read_case(str(path))
    for rank, held in (("rank0", range(251)), ("rank1", range(251, 501))):
        for index, labels, positives in zip(
            found[rank], found["labels"], found[f"{rank}/positives"], strict=True
        ):
            own = {int(label) - held.start for label in labels if label in held}
            assert own <= set(index)
            assert len(own) == positives
            assert sample_size(case, int(rank[-1])) == len(set(index))
            assert (np.diff(index) > 0).all()
            assert 0 <= index[0] <= index[-1] < len(held)
    assert (found["rank1"] == found["again"]).all()
    assert (found["rank0"] != found["rank1"]).any()
    assert (found["rank1"][0] != found["rank1"][1]).any()
    # Every class comes up: it is no fixed set.
    assert len(set(found["rank0"].ravel())) > 200


def test_more_positives_than_a_sample_takes_are_counted(
    parallel_case: Callable[..., Path], run_program: Callable[..., Arrays]
) -> None:
    """The device goes on; the count comes back with the loss and is checked then."""
    path = parallel_case("sampled", parallelism="partial_fc", sample_ratio=0.1, num_classes=501)

    found = run_program("samples", path)

    assert (2, 250) == (len(found["small"]), found["small/positives"])


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_rows_that_are_not_sampled_stay_as_they_are(
    decay: str, case_file: Callable[..., Path], run_program: Callable[..., Arrays]
) -> None:
    """To the last bit, while the others move by the formula of momentum and weight decay."""
    path = case_file(
        optimizer=Optimizer(weight_decay=0.1, decay=decay),
        schedule=Schedule(learning_rate=0.1, steps=(1,), scales=(0.5,)),
    )
    content = json.loads(path.read_text())
    content.update(parallelism="partial_fc", sample_ratio=0.1, num_classes=400)
    path.write_text(json.dumps(content))

    found = run_program("rows", path)

    velocity = np.zeros_like(found["0/weight"], dtype=np.float64)
    coupled, decoupled = (0.1, 0.0) if decay == "coupled" else (0.0, 0.1)
    for step, rate in enumerate(RATES, 1):
        before, after = found[f"{step - 1}/weight"], found[f"{step}/weight"]
        index = found[f"{step}/index"]
        assert set(found[f"{step}/labels"]) <= set(index)
        assert 40 == len(index)
        others = np.setdiff1d(np.arange(400), index)
        assert (before[others] == after[others]).all()
        if step > 1 and RATES[step - 2] == rate:
            assert (found[f"{step - 1}/momentum"][others] == found[f"{step}/momentum"][others]).all()
        weight = before[index].astype(np.float64)
        gradient = found[f"{step}/gradient"] + coupled * weight
        velocity[index] = 0.9 * velocity[index] - rate * gradient
        expected = weight + velocity[index] - rate * decoupled * weight
        np.testing.assert_allclose(after[index], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(-rate * found[f"{step}/momentum"], velocity, rtol=1e-5, atol=1e-6)
    assert len(np.intersect1d(found["1/index"], found["3/index"])) > 0


def test_a_trainer_never_holds_a_third_table_of_the_classes(
    case_file: Callable[..., Path], run_program: Callable[..., Arrays]
) -> None:
    """Two tables are the classifier and its momentum. The initial array goes before the momentum comes."""
    path, classes = case_file(), 400_000
    content = json.loads(path.read_text())
    content.update(parallelism="partial_fc", sample_ratio=0.1, num_classes=classes)
    path.write_text(json.dumps(content))

    found = run_program("starting", path)

    table = classes * 128 * 4
    assert 2 * table < found["grown"] < 3.1 * table
