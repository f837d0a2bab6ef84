"""The check of an environment as one program, which says what it could not try where it ran."""

from collections.abc import Iterable

from dlperf.adapters.base import EnvironmentSpec

# frameworks/node/environments.py reads it too.
_UNVERIFIED = "not verified: "

# For Python 3.8 and newer. Asks the driver itself: some engines cannot even be imported without one.
_GPU_PART = """
import ctypes

def obstacle():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver here"
    code, count = driver.cuInit(0), ctypes.c_int()
    if code == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver shows no GPU here (cuInit: %d)" % code

reason = obstacle()
if reason is None:
    exec(compile({gpu_check!r}, "<check on the GPU>", "exec"), {{}})
else:
    print("{unverified}that it works on a GPU: " + reason)
"""


def check_source(spec: EnvironmentSpec, *, own: bool = False) -> str:
    """The program of the check, which prints the framework's version last; it fails if anything is wrong.

    `own`: the user has installed the framework, perhaps in another build.
    """
    build_check = None if own else spec.build_check
    if build_check is None and spec.gpu_check is None:
        return spec.import_check
    parts = []
    if build_check is not None:
        parts.append(_part(build_check, "check of the build"))
    if spec.gpu_check is not None:
        parts.append(_GPU_PART.format(gpu_check=spec.gpu_check, unverified=_UNVERIFIED))
    return "\n".join((*parts, _part(spec.import_check, "import check")))


def _part(source: str, name: str) -> str:
    """In a namespace of its own."""
    return f'exec(compile({source!r}, "<{name}>", "exec"), {{}})'


def unverified_in(lines: Iterable[str]) -> tuple[str, ...]:
    """What a check could not try, of the lines that it printed."""
    return tuple(line.removeprefix(_UNVERIFIED) for line in lines if line.startswith(_UNVERIFIED))
