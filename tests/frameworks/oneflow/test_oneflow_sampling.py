"""The check of what the device samples with Partial FC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.engine
@pytest.mark.slow
def test_the_device_counts_the_positives_of_the_rank_that_has_most(
    run_program: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    labels = np.random.default_rng(5).integers(0, 40, (6, 16))
    labels[0], labels[1] = 7, np.arange(10, 26)
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, labels=labels, num_classes=40, ranks=4)
    expected = [np.bincount(np.unique(row) // 10, minlength=4).max() for row in labels]
    assert expected == run_program("positives", inputs)["most"].tolist()
