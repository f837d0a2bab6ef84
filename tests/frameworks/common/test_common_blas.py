"""The choice of kernels for an older OpenBLAS."""

from __future__ import annotations

from pathlib import Path

import pytest

from frameworks.common import blas

# A processor file as Linux writes it, cut to the lines that matter.
CPU_INFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 {flags} clflush\n"


@pytest.mark.parametrize(
    ("flags", "core"), [("avx avx2 fma", "Haswell"), ("avx fma", None), ("avx2", None), ("", None)]
)
def test_haswells_kernels_need_avx2_and_fma(flags: str, core: str | None) -> None:
    assert core == blas.best_core(CPU_INFO.format(flags=flags))


def test_a_processor_without_flags_is_left_to_openblas() -> None:
    assert blas.best_core("Features : asimd") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"OPENBLAS_CORETYPE": "Haswell"}), ({"OPENBLAS_CORETYPE": "Zen"}, {"OPENBLAS_CORETYPE": "Zen"})],
)
def test_the_best_kernels_are_set_unless_the_user_chose(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(CPU_INFO.format(flags="avx2 fma"), encoding="utf-8")
    monkeypatch.setattr(blas, "_CPU_INFO", cpu_info)
    blas.choose_core(given)
    assert expected == given
