"""Which kernels an OpenBLAS of some years ago takes, which some engines' wheels hold.

It does not know newer processors and gives them kernels of older ones: on an AMD EPYC with AVX-512 those for
the Barcelona of 2007, with which its matrix product is less than half as fast as with those for Haswell.
`OPENBLAS_CORETYPE` says which to take, before the library is loaded; the best that they all have are those
for Haswell, which need AVX2 and FMA.
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
    """The best of OpenBLAS's kernels for a processor, from the text of /proc/cpuinfo; None: let it choose."""
    flags = re.search(r"^flags\s*:(.*)$", cpu_info, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return "Haswell" if {"avx2", "fma"} <= has else None
