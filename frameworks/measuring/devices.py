"""What a device does: matrix products and copies, each for some time."""

import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Tuple

import torch

# Of matrices [n, n]; small where few threads multiply them, so that a product takes a part of a second.
_FEW_THREADS = 4
_SMALL, _LARGE, _ON_GPU = 1024, 2048, 8192
_COPIED_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
_BF16_CAPABILITY = (8, 0)
_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def device_measures(
    device: torch.device, threads: int, seconds: float
) -> Iterator[Tuple[str, Callable[[], float]]]:
    """The measurements of a device: FLOP/s of matrix products, bytes/s of copies.

    A copy within the device's memory reads and writes, which counts twice.
    """
    size = _ON_GPU if device.type == "cuda" else _SMALL if threads < _FEW_THREADS else _LARGE
    types = {"matrix_fp32": torch.float32}
    if device.type == "cuda":
        types["matrix_fp16"] = torch.float16
        if torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY:
            types["matrix_bf16"] = torch.bfloat16
    elif _cpu_multiplies_bf16():
        types["matrix_bf16"] = torch.bfloat16
    for metric, kind in types.items():
        yield metric, partial(_products, device, kind, size, seconds)
    yield "memory_bandwidth", partial(_copies, device, device, seconds)
    if device.type == "cuda":
        yield "host_to_device", partial(_copies, torch.device("cpu"), device, seconds)


def _cpu_multiplies_bf16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in text for flag in _BF16_FLAGS)


def _products(device: torch.device, kind: torch.dtype, size: int, seconds: float) -> float:
    left, right = (torch.rand(size, size, device=device).to(kind) for _ in range(2))
    result = torch.empty(size, size, dtype=kind, device=device)
    return 2 * size**3 * _per_second(lambda: torch.mm(left, right, out=result), device, seconds)


def _copies(origin: torch.device, target: torch.device, seconds: float) -> float:
    is_within = origin == target
    count = _COPIED_BYTES[target.type] // 4
    source = torch.ones(count, device=origin, pin_memory=not is_within)
    copy = torch.empty(count, device=target)
    return (8 if is_within else 4) * count * _per_second(lambda: copy.copy_(source), target, seconds)


def _per_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How often a second the work is done, over all the time: the best of many would hide a throttled CPU."""

    def done() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    done()
    times, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done()
        times += 1
    return times / (time.perf_counter() - start)
