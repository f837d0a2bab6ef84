"""The choice of kernels for OneFlow's OpenBLAS."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dlperf.files import shipped_root

# A processor file as Linux writes it, cut to the lines that matter.
CPU_INFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 {flags} clflush\n"


def blas(expression: str) -> str:
    """The module alone, without the package around it, which would load OneFlow's other modules."""
    source = f"import runpy; m = runpy.run_path('frameworks/oneflow/blas.py'); print({expression})"
    command = [sys.executable, "-c", source]
    return subprocess.run(
        command, cwd=shipped_root(), capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    ("flags", "core"), [("avx avx2 fma", "Haswell"), ("avx fma", "None"), ("avx2", "None"), ("", "None")]
)
def test_haswells_kernels_need_avx2_and_fma(flags: str, core: str) -> None:
    assert core == blas(f"m['best_core']({CPU_INFO.format(flags=flags)!r})")


def test_a_machine_without_flags_is_left_to_openblas() -> None:
    assert "None" == blas("m['best_core']('Features : asimd')")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OPENBLAS_CORETYPE": "Zen"}, {"OPENBLAS_CORETYPE": "Zen"}),
        (
            {"DLPERF_ONEFLOW_OPENBLAS_CORE": "detected"},
            {"DLPERF_ONEFLOW_OPENBLAS_CORE": "detected"},
        ),
    ],
)
def test_a_choice_that_is_made_stands(environment: dict[str, str], expected: dict[str, str]) -> None:
    assert str(expected) == blas(f"(lambda e: (m['choose_core'](e), e)[1])({environment!r})")
