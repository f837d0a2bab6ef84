"""Which kernels the OpenBLAS of MXNet's CPU wheels takes; `frameworks/common/blas.py` says why it matters.

1.8.0.post0 holds OpenBLAS 0.3.7, which takes those of too old a processor; 1.9.0 and 1.9.1 hold 0.3.13, whose
own choice is as fast as the best of 0.3.7.
"""

import re
from importlib import metadata
from typing import MutableMapping, Optional

from frameworks.common import blas

_CHOOSES_WELL = (1, 9)


def installed_version() -> Optional[str]:
    """Of the CPU wheel; None where there is none."""
    try:
        return metadata.version("mxnet")
    except metadata.PackageNotFoundError:
        return None


def choose_core(environment: MutableMapping[str, str], version: Optional[str]) -> None:
    """Set OPENBLAS_CORETYPE for an MXNet whose OpenBLAS chooses badly, unless it is set already."""
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < _CHOOSES_WELL:
        blas.choose_core(environment)
