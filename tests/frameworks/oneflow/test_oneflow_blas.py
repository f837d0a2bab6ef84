"""OneFlow's package chooses the kernels of OpenBLAS before the engine is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dlperf.files import shipped_root

# Without a real engine: the package itself imports none for a single rank.
PROGRAM = """
import os
from frameworks.common import blas
blas.best_core = lambda _info: "Haswell"
import frameworks.oneflow
print(os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize(("asked", "core"), [("best", "Haswell"), ("detected", "None")])
def test_the_adapter_can_leave_the_kernels_to_openblas(asked: str, core: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=shipped_root(),
        env={**kept, "DLPERF_ONEFLOW_OPENBLAS_CORE": asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert core == done.stdout.strip()
