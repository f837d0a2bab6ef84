"""Which kernels an older OpenBLAS uses, as some engines' wheels bundle it.

Such a version does not know newer processors and falls back to the kernels of older ones: on an AMD EPYC with
AVX-512 it picks those for the Barcelona of 2007, whose matrix product runs at less than half the speed of the
Haswell kernels. `OPENBLAS_CORETYPE` overrides the choice; it is read when the library is loaded. Haswell's
are the best kernels that all these versions have, and need AVX2 and FMA.
"""

import re
from pathlib import Path
from typing import MutableMapping, Optional

CORE = "OPENBLAS_CORETYPE"

_CPU_INFO = Path("/proc/cpuinfo")


def choose_core(environment: MutableMapping[str, str]) -> None:
    """Set OPENBLAS_CORETYPE, unless it is set already."""
    if CORE in environment:
        return
    core = best_core(_CPU_INFO.read_text(encoding="utf-8") if _CPU_INFO.exists() else "")
    if core is not None:
        environment[CORE] = core


def best_core(cpu_info: str) -> Optional[str]:
    """The best kernels for a processor, from the text of /proc/cpuinfo; None: leave it to OpenBLAS."""
    flags = re.search(r"^flags\s*:(.*)$", cpu_info, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return "Haswell" if {"avx2", "fma"} <= has else None
