"""Which kernels the OpenBLAS inside OneFlow's wheels takes.

The wheels hold an OpenBLAS of some years ago, which does not know newer processors and gives them kernels of
older ones: on an AMD EPYC with AVX-512 it takes those for the Barcelona of 2007, and its matrix product is
less than half as fast as with those for Haswell. `OPENBLAS_CORETYPE` says which to take; the best in the
wheels are those for Haswell, which need AVX2 and FMA.
"""

import re
from pathlib import Path
from typing import MutableMapping, Optional

CORE = "OPENBLAS_CORETYPE"
# Set by the adapter: `best` as here, `detected` leaves the choice to OpenBLAS.
CHOICE = "DLPERF_ONEFLOW_OPENBLAS_CORE"

_CPU_INFO = Path("/proc/cpuinfo")


def choose_core(environment: MutableMapping[str, str]) -> None:
    """Set OPENBLAS_CORETYPE, unless it is set already or the adapter asks for what is detected."""
    if CORE in environment or environment.get(CHOICE) == "detected":
        return
    core = best_core(_CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else "")
    if core is not None:
        environment[CORE] = core


def best_core(cpu_info: str) -> Optional[str]:
    """The best of OpenBLAS's kernels for a processor, from the text of /proc/cpuinfo; None: let it choose."""
    flags = re.search(r"^flags\s*:(.*)$", cpu_info, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return "Haswell" if {"avx2", "fma"} <= has else None
