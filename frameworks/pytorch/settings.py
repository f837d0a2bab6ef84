"""What a case's device and options mean to PyTorch, and what the engine reports of its device."""

from typing import Any, Dict, Optional

import numpy as np
import torch
from torch.nn import functional

from frameworks.common.arithmetic import fp32_facts, uses_tf32
from frameworks.common.case import Case, rank_from_environment
from frameworks.common.matmul import best_flops_per_second
from frameworks.common.reading import split_threads
from frameworks.pytorch.precision import loss_scale, set_fp32_precision

_TRITON_CAPABILITY = (7, 0)  # on older GPUs torch.compile raises GPUTooOldForTriton


def device(case: Case) -> torch.device:
    """The device of this rank."""
    if case.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank_from_environment().local_rank)


def uses_channels_last(case: Case) -> bool:
    """The option `channels_last`. Default: what is fast, so on for CPU and for tensor cores."""
    on_tensor_cores = case.precision != "fp32" or uses_tf32(case)
    return case.options.get("channels_last", case.device == "cpu" or on_tensor_cores)


def uses_compile(case: Case) -> bool:
    """The option `compile`. Default: on CUDA, where compiled kernels save memory traffic, if the GPU can."""
    asked = case.options.get("compile")
    if asked is not None or case.device == "cpu":
        return bool(asked)
    return torch.cuda.get_device_capability(device(case)) >= _TRITON_CAPABILITY


def uses_cuda_graphs(case: Case) -> bool:
    """The option `cuda_graphs`: replay the compiled kernels without a launch of each by the host."""
    return uses_compile(case) and case.options.get("cuda_graphs", False)


def configure(case: Case) -> None:
    """Set what is global to the process: threads, device, and what fp32 means."""
    torch.set_num_threads(split_threads(case).computing)
    set_fp32_precision(tf32=uses_tf32(case))
    torch.backends.cudnn.benchmark = True  # shapes never change, so searching for the best algorithm pays
    if case.device == "cuda":
        torch.cuda.set_device(device(case))


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, threads, device, and the options in effect."""
    configure(case)
    found: Dict[str, Any] = {
        "version": torch.__version__,
        "device": case.device,
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if uses_channels_last(case) else "contiguous",
        "compiled": uses_compile(case),
        "cuda_graphs": uses_cuda_graphs(case),
        **_fp32_facts(case),
        "gradient_dtype": case.gradient_dtype,
        "loss_scale": loss_scale(case),
    }
    if case.device == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return {**found, "cpu_capability": capability, "onednn": _onednn_version()}
    return {
        **found,
        "device_name": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _fp32_facts(case: Case) -> Dict[str, Any]:
    def there(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device(case))

    return fp32_facts(
        case,
        multiply=lambda left, right: (there(left) @ there(right)).cpu().numpy(),
        convolve=lambda images, kernels: functional.conv2d(there(images), there(kernels)).cpu().numpy(),
    )


def _onednn_version() -> Optional[str]:
    """As in "Intel(R) MKL-DNN v3.12.0 (Git Hash ...)"; None in a build without it."""
    for line in torch.__config__.show().splitlines():
        if "MKL-DNN v" in line:
            return line.split("MKL-DNN v")[1].split()[0]
    return None


def matmul_flops_per_second(case: Case) -> float:
    """The best rate of a large float32 product; its memory is given back, so it does not count as a peak."""
    rate = best_flops_per_second(
        case,
        make=lambda size: torch.rand(size, size, device=device(case)),
        multiply=lambda left, right: (left @ right)[0, 0].item(),
    )
    if case.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return rate


def allocator_peaks() -> Dict[str, int]:
    """The most that tensors took of torch's allocator, and the most that it took of the device, in bytes."""
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }
