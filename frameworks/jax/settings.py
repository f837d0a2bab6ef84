"""What a case's device and options mean to JAX, and what the engine reports of its device."""

import os
from pathlib import Path
from typing import Any, Dict

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import lax

from frameworks.common.arithmetic import fp32_facts, uses_tf32
from frameworks.common.case import Case, rank_from_environment
from frameworks.common.matmul import best_flops_per_second
from frameworks.common.reading import split_threads
from frameworks.jax.precision import loss_scale, set_fp32_precision

_POOL_THREAD = "tf_XLAEigen"  # how XLA names the threads of its pool on a CPU
# JAX 0.10 gives convolutions on a CPU to YNNPACK, which is slow at the gradient of their weights; without it
# Eigen computes them (docs/engines/jax.md). XLA ends at a flag that it does not know, as other versions may.
_LIBRARY_FLAG, _LIBRARY_VERSION = "--xla_cpu_experimental_ynn_fusion_type", (0, 10)


def device() -> jax.Device:
    """The device of this rank."""
    return jax.local_devices()[0]


def sums_depthwise(case: Case) -> bool:
    """Whether depthwise convolutions are written as sums of products: on a CPU, where XLA's own are slow."""
    return case.device == "cpu"


def configure(case: Case) -> None:
    """Set what is global to the process, before JAX looks for devices: threads, device, what fp32 means."""
    os.environ["NPROC"] = str(split_threads(case).computing)  # XLA's pool reads it when it starts
    os.environ["XLA_FLAGS"] = _xla_flags(case, os.environ.get("XLA_FLAGS", ""))  # likewise
    jax.config.update("jax_platforms", case.device)
    jax.config.update("jax_enable_x64", False)  # noqa: FBT003 - a variable of the user's may set it
    jax.config.update("jax_cuda_visible_devices", str(rank_from_environment().local_rank))
    set_fp32_precision(tf32=uses_tf32(case))


def _xla_flags(case: Case, users: str) -> str:
    """The user's flags, and on a CPU ours; theirs alone if they name it too, or are a file's name."""
    ours = case.device == "cpu" and jax.__version_info__[:2] == _LIBRARY_VERSION
    if not ours or _LIBRARY_FLAG in users or users.strip()[:1] not in {"", "-"}:
        return users
    return f"{users} {_LIBRARY_FLAG}=-individual_convolution".lstrip()


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, threads, device, and what the options mean."""
    configure(case)
    found: Dict[str, Any] = {
        "version": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device": case.device,
        **_fp32_facts(case),
        "gradient_dtype": case.gradient_dtype,
        "loss_scale": loss_scale(case),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    if case.device == "cpu":
        return {**found, "threads": _pool_threads()}
    return {
        **found,
        "threads": split_threads(case).computing,
        "device_name": device().device_kind,
        "cuda": device().client.platform_version,
    }


def _pool_threads() -> int:
    """Threads of XLA's pool; the products that told the arithmetic have started it."""
    names = [path.read_text(encoding="utf-8") for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith(_POOL_THREAD) for name in names)


def _fp32_facts(case: Case) -> Dict[str, Any]:
    def convolve(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        return np.asarray(lax.conv(jnp.asarray(images), jnp.asarray(kernels), (1, 1), "VALID"))

    return fp32_facts(
        case,
        multiply=lambda left, right: np.asarray(jnp.asarray(left) @ jnp.asarray(right)),
        convolve=convolve,
    )


def matmul_flops_per_second(case: Case) -> float:
    """The best rate of a large float32 product; its memory is freed, and the pool of a GPU keeps it."""
    return best_flops_per_second(
        case,
        make=lambda size: jax.random.uniform(jax.random.key(0), (size, size)),
        multiply=lambda left, right: (left @ right).block_until_ready(),
    )


def allocator_peaks() -> Dict[str, int]:
    """The most that arrays took of XLA's pool, and the most that it took of the device, in bytes."""
    stats = device().memory_stats()
    return {
        "peak_allocated_bytes": stats["peak_bytes_in_use"],
        "peak_reserved_bytes": stats["peak_pool_bytes"],
    }
