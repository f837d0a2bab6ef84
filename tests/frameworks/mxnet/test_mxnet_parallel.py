"""Two devices, as two processes and in one process: every parallelism trains the same function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.align import outputs_name
from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import class_range
from frameworks.common.sampling import sample_size

Arrays = dict[str, np.ndarray]

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS = 3


@pytest.fixture
def train(
    parallel_case: Callable[..., Path],
    run_ranks: Callable[..., list[str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Callable[..., list[Arrays]]:
    """Train named cases on one set of inputs, made for two devices; the arrays of each process."""
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, **align_inputs(read_case(str(parallel_case("inputs"))), STEPS))

    def run(cases: dict[str, dict], *, ranks: int, devices: int = 1, nodes: int = 1) -> list[Arrays]:
        files = [parallel_case(name, devices=ranks * devices, **changes) for name, changes in cases.items()]
        outputs = str(tmp_path / f"outputs{ranks}{devices}.npz")
        program = request.path.parent / "programs" / "parallel.py"
        run_ranks(program, *files, inputs, outputs, ranks=ranks, devices=devices, nodes=nodes)
        found = []
        for rank in range(0, ranks * devices, devices):
            with np.load(outputs_name(outputs, rank)) as arrays:
                found.append(dict(arrays))
        return found

    return run


WAYS = {
    "data": {},
    "model": {"parallelism": "model"},
    "all": {"parallelism": "partial_fc", "sample_ratio": 1.0},
}


def whole(found: list[Arrays], name: str) -> Arrays:
    """Losses and parameters of a case, a split classifier concatenated."""
    prefix = f"{name}/"
    arrays = {key[len(prefix) :]: array for key, array in found[0].items() if key.startswith(prefix)}
    parts = [process[f"{name}/parameter/{CLASSIFIER}"] for process in found]
    if len(parts[0]) < 51:
        arrays[f"parameter/{CLASSIFIER}"] = np.concatenate(parts)
    return {key: array for key, array in arrays.items() if key == "losses" or key.startswith("parameter/")}


def assert_same(expected: Arrays, found: Arrays, what: str) -> None:
    assert set(expected) == set(found)
    for name, array in expected.items():
        tolerance = 1e-4 * np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=f"{what} {name}")


def test_all_parallelisms_agree_in_two_processes_and_in_one(train: Callable[..., list[Arrays]]) -> None:
    """The processes as two nodes of one device; 51 classes, which two devices share unevenly."""
    processes = train(WAYS, ranks=2, nodes=2)
    one = train(WAYS, ranks=1, devices=2)

    assert [26, 25] == [len(process[f"model/parameter/{CLASSIFIER}"]) for process in processes]
    expected = whole(processes, "data")
    for name in WAYS:
        assert_same(expected, whole(processes, name), f"{name} in processes")
        assert_same(expected, whole(one, name), f"{name} in one process")

    ranks = [process["data/running_mean"] for process in processes]
    assert np.abs(ranks[0] - ranks[1]).max() > 0, "statistics of the norms are a device's own"
    np.testing.assert_allclose(one[0]["data/running_mean"], np.concatenate(ranks), rtol=1e-5)


def test_partial_fc_trains_its_sample_and_nothing_else(
    train: Callable[..., list[Arrays]], parallel_case: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"parallelism": "partial_fc", "sample_ratio": 0.1}

    found = train({"some": changes, "again": changes}, ranks=2)

    case = read_case(str(parallel_case("some", **changes)))
    with np.load(tmp_path / "inputs.npz") as inputs:
        labels = inputs["labels"]
    for rank, arrays in enumerate(found):
        start, stop = class_range(51, 2, rank)
        for step in range(STEPS):
            index = arrays[f"some/{step}/index"]
            assert sample_size(case, rank) == len(set(index)) == len(index) < stop - start
            positives = {label - start for label in labels[step] if start <= label < stop}
            assert positives <= set(index)
            np.testing.assert_array_equal(index, arrays[f"again/{step}/index"])
            others = np.setdiff1d(np.arange(stop - start), index)
            for name in ("weight", "momentum"):
                before, after = (arrays[f"some/{step}/{when}/{name}"] for when in ("before", "after"))
                np.testing.assert_array_equal(before[others], after[others])
                assert (before[index] != after[index]).any(axis=1).all(), f"{name} of every sampled row moves"
        samples = {tuple(arrays[f"some/{step}/index"]) for step in range(STEPS)}
        assert STEPS == len(samples)
    indices = [[arrays[f"some/{step}/index"].tolist() for step in range(STEPS)] for arrays in found]
    assert indices[0] != indices[1]
