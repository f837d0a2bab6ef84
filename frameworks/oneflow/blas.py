"""Which kernels the OpenBLAS of OneFlow's wheels takes; `frameworks/common/blas.py` says why it matters."""

from typing import MutableMapping

from frameworks.common import blas
from frameworks.common.blas import CORE, best_core

__all__ = ["CHOICE", "CORE", "best_core", "choose_core"]

# Set by the adapter: `best` of what the processor can run, or `detected`, which is left to OpenBLAS.
CHOICE = "DLPERF_ONEFLOW_OPENBLAS_CORE"


def choose_core(environment: MutableMapping[str, str]) -> None:
    """Set OPENBLAS_CORETYPE, unless it is set already or the adapter asks for what is detected."""
    if environment.get(CHOICE) != "detected":
        blas.choose_core(environment)
