"""What a case's device and options mean to MXNet, and what the engine reports and measures of its device."""

import ctypes
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

import mxnet as mx
import numpy as np

from frameworks.common.arithmetic import fp32_facts
from frameworks.common.case import Case, Rank, rank_from_environment
from frameworks.common.matmul import best_flops_per_second
from frameworks.mxnet.network import NATIVE_PRELU
from frameworks.mxnet.precision import loss_scale


def devices(case: Case, rank: Rank) -> List[mx.Context]:
    """The devices of this process, nearly always one."""
    if case.device == "cpu":
        return [mx.cpu(number) for number in range(rank.devices)]
    return [mx.gpu(rank.local_rank + number) for number in range(rank.devices)]


def prelu_form(case: Case) -> str:
    """The option `prelu`. Default: what is fast on the case's device."""
    return case.options.get("prelu", "convolution" if case.device == "cpu" else "broadcast")


# What a report says of a run with MXNet's own PReLU.
NATIVE_PRELU_CAUTION = "prelu: native may compute a wrong gradient of PReLU's slope; only its speed counts"

# The environment variables with which the adapter tunes MXNet and Horovod, unless a user sets them.
TUNING_VARIABLES = (
    "HOROVOD_CYCLE_TIME",
    "HOROVOD_FUSION_THRESHOLD",
    "HOROVOD_NUM_NCCL_STREAMS",
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD",
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD",
    "MXNET_GPU_COPY_NTHREADS",
    "MXNET_OPTIMIZER_AGGREGATION_SIZE",
)


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, devices, threads of its OpenMP, features built in."""
    features, rank = mx.runtime.Features(), rank_from_environment()
    return {
        "version": mx.__version__,
        "device": ", ".join(str(device) for device in devices(case, rank)),
        # MXNet has no call for it; the OpenMP of its library does.
        "threads": mx.base._LIB.omp_get_max_threads(),  # noqa: SLF001
        "features": sorted(name for name in features if features.is_enabled(name)),
        "blas": _blas(),
        "prelu": prelu_form(case),
        **({"caution": NATIVE_PRELU_CAUTION} if prelu_form(case) == NATIVE_PRELU else {}),
        **_fp32_facts(case),
        "tuning": {name: os.environ[name] for name in TUNING_VARIABLES if name in os.environ},
        "gradient_dtype": case.gradient_dtype,
        "loss_scale": loss_scale(case),
        **({"horovod": _horovod_version()} if rank.world_size > rank.devices else {}),
    }


def _fp32_facts(case: Case) -> Dict[str, Any]:
    first = devices(case, rank_from_environment())[0]

    def there(array: np.ndarray) -> mx.nd.NDArray:
        return mx.nd.array(array, ctx=first, dtype="float32")

    def convolve(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        shape = {"kernel": (1, 1), "num_filter": len(kernels)}
        return mx.nd.Convolution(there(images), there(kernels), no_bias=True, **shape).asnumpy()

    def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return mx.nd.dot(there(left), there(right)).asnumpy()

    return fp32_facts(case, multiply, convolve)


def _horovod_version() -> str:
    import horovod  # noqa: PLC0415 - installed only for several processes

    return horovod.__version__


def _blas() -> Optional[str]:
    """The wheel's OpenBLAS and the processor whose kernels it uses, such as `OpenBLAS 0.3.13 Zen`."""
    path = Path(mx.__file__).parent / "libopenblas.so.0"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    for name in ("openblas_get_config", "openblas_get_corename"):
        getattr(library, name).restype = ctypes.c_char_p
    version = " ".join(library.openblas_get_config().decode().split()[:2])
    return f"{version} {library.openblas_get_corename().decode()}"


def matmul_flops_per_second(case: Case) -> float:
    """The best rate of a large float32 product; its memory is given back, so it does not count as a peak."""
    device = devices(case, rank_from_environment())[0]
    rate = best_flops_per_second(
        case,
        make=lambda size: mx.nd.random.uniform(shape=(size, size), ctx=device),
        multiply=lambda left, right: mx.nd.dot(left, right).wait_to_read(),
    )
    if case.device == "cuda":
        mx.nd.waitall()
        device.empty_cache()
    return rate
