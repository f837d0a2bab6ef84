"""The engine as it runs here: what the log says of it, and what it measures of its device."""

import ctypes
import time
from pathlib import Path
from typing import Any, Dict, Optional

import mxnet as mx

from frameworks.common.case import Case, rank_from_environment
from frameworks.mxnet.parallel import contexts


def prelu_form(case: Case) -> str:
    """The option `prelu`, else what is fast on the case's device."""
    return case.options.get("prelu", "convolution" if case.device == "cpu" else "broadcast")


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, devices, threads that its OpenMP would take, features built in."""
    features, rank = mx.runtime.Features(), rank_from_environment()
    return {
        "version": mx.__version__,
        "device": ", ".join(str(device) for device in contexts(case, rank)),
        # MXNet has no call for it; its library's own OpenMP answers.
        "threads": mx.base._LIB.omp_get_max_threads(),  # noqa: SLF001
        "features": sorted(name for name in features if features.is_enabled(name)),
        "blas": _blas(),
        "prelu": prelu_form(case),
        **({"horovod": _horovod_version()} if rank.world_size > rank.devices else {}),
    }


def _horovod_version() -> str:
    import horovod  # noqa: PLC0415 - there with several processes alone

    return horovod.__version__


def _blas() -> Optional[str]:
    """The wheel's OpenBLAS and the processor whose kernels it takes, such as `OpenBLAS 0.3.13 Zen`."""
    path = Path(mx.__file__).parent / "libopenblas.so.0"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    for name in ("openblas_get_config", "openblas_get_corename"):
        getattr(library, name).restype = ctypes.c_char_p
    version = " ".join(library.openblas_get_config().decode().split()[:2])
    return f"{version} {library.openblas_get_corename().decode()}"


def matmul_flops_per_second(case: Case) -> float:
    """The best of some products of two square float32 matrices, n = 2048 on CPU and 8192 on a GPU.

    The matrices are gone from the device before training, so that its peak memory is the training's own.
    """
    device = contexts(case, rank_from_environment())[0]
    rate = _best_product(case, device)
    if case.device == "cuda":
        mx.nd.waitall()
        device.empty_cache()
    return rate


def _best_product(case: Case, device: mx.Context) -> float:
    size, repeats = (2048, 5) if case.device == "cpu" else (8192, 20)
    left = mx.nd.random.uniform(shape=(size, size), ctx=device)
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        mx.nd.waitall()
        start = time.perf_counter()
        mx.nd.dot(left, left).wait_to_read()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def peak_device_bytes(case: Case) -> Optional[int]:
    """What the memory pool of the process's first device took, which it keeps until the end; None on CPU."""
    if case.device == "cpu":
        return None
    free, total = mx.context.gpu_memory_info(contexts(case, rank_from_environment())[0].device_id)
    return total - free
