"""When a step is complete, and what it costs to know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_a_step_waits_for_all_its_updates_with_few_operators(
    case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    found = run_program("completion", case_file("iresnet50", "E", batch_size=2))
    assert dict.fromkeys(found["names"].tolist(), True) == dict(
        zip(found["names"].tolist(), found["waited"].tolist(), strict=True)
    )
    # On a GPU `concat` starts a kernel for each input.
    assert 200 < found["trained"] <= 400
    assert (2, 2) == (found["inputs"], found["checks"])
