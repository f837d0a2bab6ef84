"""The JAX training program: one compiled step, one process per device.

The modules and their names are those of `frameworks/pytorch`, `frameworks/mxnet` and `frameworks/oneflow`, in
the same order.
"""

import re
import sys
from importlib import metadata
from typing import Optional

# dlperf/adapters/jax.py refuses older versions when it plans, as far as it knows the version by then.
_OLDEST = (0, 9)


def too_old(version: Optional[str]) -> Optional[str]:
    """Why an installed version cannot run these programs; None if it can, or if there is none."""
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= _OLDEST:
        return None
    return f"JAX {version} is too old: these programs need {_OLDEST[0]}.{_OLDEST[1]} or newer"


def installed_version() -> Optional[str]:
    """The version of the package; None if it is not installed."""
    try:
        return metadata.version("jax")
    except metadata.PackageNotFoundError:
        return None


_reason = too_old(installed_version())
if _reason is not None:
    sys.exit(_reason)
