"""When batches get into pinned memory, which takes far longer than a copy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_every_batch_of_a_run_is_pinned_before_its_first_step(
    run_program: Callable[..., dict[str, np.ndarray]],
) -> None:
    """A batch that was not announced, as in an alignment, is pinned when it comes."""
    found = run_program("feeder")
    assert (20, 20, 24) == (found["before"], found["repeated"], found["other"])
    assert [*range(10), *range(10)] == found["fed"].tolist()
