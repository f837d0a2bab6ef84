"""The speed of a large float32 matrix product, timed the same way in every engine."""

import time
from typing import Any, Callable

from frameworks.common.case import Case


def best_flops_per_second(
    case: Case, make: Callable[[int], Any], multiply: Callable[[Any, Any], object]
) -> float:
    """The best rate of 5 products of two square matrices on CPU (n = 2048), of 20 on a GPU (n = 8192).

    Args:
        case: says which device it is.
        make: makes a float32 matrix [n, n] on the device. Its memory is free when this function returns.
        multiply: multiplies two of them, and returns when the product is done.
    """
    size, repeats = (2048, 5) if case.device == "cpu" else (8192, 20)
    left, right = make(size), make(size)
    multiply(left, right)  # starts threads and libraries
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
