"""What an engine computes float32 products in, told by products whose rounding shows.

docs/workloads.md, "Arithmetic", has the definition. GPUs can round the factors of a float32 product to TF32,
with 10 bits behind the point in place of 23, and engines, libraries and variables each have their own say in
it. So it is measured, once for a matrix product and once for a convolution, as they can differ.

All factors are x = 2^20 (1 + 2^-9 + 2^-12). Float32 holds x exactly; TF32 drops the 2^-12, bfloat16 the 2^-9
too, and float16 overflows. The sums are exact but for the last bits of float32.
"""

from typing import Any, Callable, Dict

import numpy as np

from frameworks.common.case import Case

# As float32 holds it.
FACTOR = 2.0**20 * (1 + 2.0**-9 + 2.0**-12)
# Large enough that a library which may use TF32 does. Kernels of 1 x 1 leave it no other algorithm.
_TERMS = 1024
_IMAGES, _KERNELS = (8, 256, 28, 28), (256, 256, 1, 1)
# Relative errors: of a sum of that many float32 at most 2^-14; of TF32 2^-11; of bfloat16 2^-8.
_IEEE, _TF32 = 2.0**-13, 2.0**-10

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


class WrongArithmeticError(Exception):
    """Float32 is computed in something else than the case says."""


def uses_tf32(case: Case) -> bool:
    """The option `tf32`, which acts on CUDA alone; when off, fp32 means IEEE float32."""
    return case.device == "cuda" and bool(case.options.get("tf32", False))


def fp32_facts(case: Case, multiply: Product, convolve: Product) -> Dict[str, Any]:
    """What float32 products were set to and what they are computed in, for the log; they are the same.

    Args:
        case: says what they are set to.
        multiply: float32 [M, K] times [K, N] -> [M, N], in the engine on its device.
        convolve: images float32 [B, C, H, W] with kernels [D, C, 1, 1] -> [B, D, H, W], likewise.

    Raises:
        WrongArithmeticError: a figure would stand under a false name.
    """
    wanted = "tf32" if uses_tf32(case) else "ieee"
    matrix = _factors(_TERMS, _TERMS)
    measured = {
        "product": arithmetic_of(multiply(matrix, matrix), _TERMS),
        "convolution": arithmetic_of(convolve(_factors(*_IMAGES), _factors(*_KERNELS)), _KERNELS[1]),
    }
    if set(measured.values()) != {wanted}:
        if wanted == "ieee":
            advice = (
                "remove the variables of your environment that change it (ONEDNN_DEFAULT_FPMATH_MODE, ...)"
            )
        elif "tf32" in measured.values():
            advice = "the engine's libraries do not use TF32 for both here; remove the option tf32"
        else:
            advice = "GPUs of compute capability below 8.0 have no TF32; remove the option tf32"
        raise WrongArithmeticError(
            f"float32 was set to {wanted}, but a matrix product is computed in {measured['product']} and a "
            f"convolution in {measured['convolution']}: {advice}"
        )
    return {"fp32_precision": wanted, "fp32_arithmetic": measured}


def arithmetic_of(product: np.ndarray, terms: int) -> str:
    """`ieee`, `tf32` or `other`, from elements that each are the sum of `terms` squares of FACTOR."""
    error = np.abs(product.astype(np.float64) / (terms * FACTOR**2) - 1).max()
    return "ieee" if error < _IEEE else "tf32" if error < _TF32 else "other"


def _factors(*shape: int) -> np.ndarray:
    return np.full(shape, FACTOR, np.float32)
