"""The MXNet training program: hybridized Gluon, one process per device or one for all.

The modules and their names are those of `frameworks/pytorch` and `frameworks/oneflow`, in the same order.
"""

import os
import re
from importlib import metadata
from typing import Optional

from frameworks.common.blas import choose_core


def installed_version() -> Optional[str]:
    """The version of the CPU wheel; None if it is not installed."""
    try:
        return metadata.version("mxnet")
    except metadata.PackageNotFoundError:
        return None


def openblas_chooses_badly(version: Optional[str]) -> bool:
    """Whether a CPU wheel is older than 1.9: its OpenBLAS 0.3.7 picks the kernels of an old processor.

    1.9.0 and 1.9.1 bundle 0.3.13, whose own choice is as fast as the best kernels of 0.3.7.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (1, 9)


# OpenBLAS reads the environment when MXNet is first imported, which only later modules of this folder do.
if openblas_chooses_badly(installed_version()):
    choose_core(os.environ)
