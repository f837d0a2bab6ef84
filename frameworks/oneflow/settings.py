"""What a case's device means to OneFlow, and what the engine reports and measures of it."""

import os
from typing import Any, Dict

import numpy as np
import oneflow as flow

from frameworks.common.arithmetic import fp32_facts
from frameworks.common.blas import CORE
from frameworks.common.case import Case, rank_from_environment
from frameworks.common.matmul import best_flops_per_second
from frameworks.oneflow.precision import loss_scale, norm_dtype


def device(case: Case) -> flow.device:
    """The device of this rank; CPUs are not told apart."""
    if case.device == "cpu":
        return flow.device("cpu", 0)
    return flow.device("cuda", rank_from_environment().local_rank)


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, device, threads of OneFlow's own pool, and the options in effect."""
    found: Dict[str, Any] = {
        "version": flow.__version__,
        "device": str(device(case)),
        # OneFlow has no call for it; it uses this variable, else all processors.
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        **_fp32_facts(case),
        "gradient_dtype": case.gradient_dtype,
        "loss_scale": loss_scale(case),
        "norm_dtype": str(norm_dtype(case, device(case))).partition(".")[2],
    }
    if case.device == "cpu":
        return {**found, "openblas_core": os.environ.get(CORE, "detected"), "blas_threads": 1}
    return found


def _fp32_facts(case: Case) -> Dict[str, Any]:
    def there(array: np.ndarray) -> flow.Tensor:
        return flow.from_numpy(array).to(device(case))

    def convolve(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        made = flow._C.conv2d(there(images), there(kernels), None)  # noqa: SLF001 - 0.8 has no other
        return made.numpy()

    def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return flow.matmul(there(left), there(right)).numpy()

    return fp32_facts(case, multiply, convolve)


def matmul_flops_per_second(case: Case) -> float:
    """The best rate of a large float32 product; its memory is given back, so it does not count as a peak."""
    rate = best_flops_per_second(
        case,
        make=lambda size: flow.rand(size, size, device=device(case)),
        multiply=lambda left, right: flow.matmul(left, right)[0, 0].numpy(),
    )
    if case.device == "cuda":
        flow.cuda.empty_cache()
    return rate


def synchronize() -> None:
    """Wait for everything in the engine's queue; `flow.cuda.synchronize` is for CUDA only."""
    flow._oneflow_internal.eager.Sync()  # noqa: SLF001
