"""What a case's device and options mean to PyTorch."""

import torch

from frameworks.common.case import Case, rank_from_environment
from frameworks.pytorch.precision import set_fp32_precision


def device(case: Case) -> torch.device:
    """The device that this rank drives."""
    if case.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank_from_environment().local_rank)


def uses_tf32(case: Case) -> bool:
    """The option `tf32`; off, fp32 means fp32."""
    return case.options.get("tf32", False)


def uses_channels_last(case: Case) -> bool:
    """The option `channels_last`; else what is fast: on CPU, and on CUDA what runs on tensor cores."""
    on_tensor_cores = case.precision != "fp32" or uses_tf32(case)
    return case.options.get("channels_last", case.device == "cpu" or on_tensor_cores)


def uses_compile(case: Case) -> bool:
    """The option `compile`; else on CUDA alone, where compiled kernels save memory traffic."""
    return case.options.get("compile", case.device == "cuda")


def uses_cuda_graphs(case: Case) -> bool:
    """The option `cuda_graphs`, which replays what was compiled without the host starting each kernel."""
    return uses_compile(case) and case.options.get("cuda_graphs", False)


def configure(case: Case) -> None:
    """Set what is global to the process: threads, device, and what fp32 means."""
    torch.set_num_threads(case.threads_per_device)
    set_fp32_precision(tf32=uses_tf32(case))
    torch.backends.cudnn.benchmark = True  # shapes never change, so the search for algorithms pays
    if case.device == "cuda":
        torch.cuda.set_device(device(case))
