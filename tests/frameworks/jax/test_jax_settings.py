"""The flags of XLA that the programs start it with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engines import JAX, Engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]

OURS = "--xla_cpu_experimental_ynn_fusion_type"
FAST_MATH = "--xla_cpu_enable_fast_math=false"


@pytest.fixture
def engine() -> Engine:
    return JAX


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        ("", f"{OURS}=-individual_convolution"),
        (FAST_MATH, f"{FAST_MATH} {OURS}=-individual_convolution"),
        (f"{OURS}=+individual_convolution", f"{OURS}=+individual_convolution"),
    ],
)
def test_convolutions_on_a_cpu_are_not_ynnpacks_unless_the_user_says_so(
    users: str,
    expected: str,
    case_file: Callable[..., Path],
    run_python: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_FLAGS", users)
    program = (
        "import sys; from frameworks.common.case import read_case; from frameworks.jax.settings import facts;"
        "print(facts(read_case(sys.argv[1]))['xla_flags'])"
    )

    assert expected == run_python("-c", program, case_file()).strip()
