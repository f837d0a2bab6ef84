"""What float32 is computed in shows in a product, and a run under a false name fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from frameworks.common.arithmetic import (
    FACTOR,
    WrongArithmeticError,
    arithmetic_of,
    fp32_facts,
    uses_tf32,
)
from frameworks.common.case import Case, case_from_dict

Rounding = Callable[[np.ndarray], np.ndarray]


def to_bits(bits: int) -> Rounding:
    """Round float32 to so many bits behind the point, as tensor cores do with their inputs."""

    def rounded(array: np.ndarray) -> np.ndarray:
        dropped = np.uint32(23 - bits)
        words = array.view(np.uint32) + (np.uint32(1) << (dropped - np.uint32(1)))
        return (words >> dropped << dropped).view(np.float32)

    return rounded


def as_float16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


IEEE, TF32, BF16 = (lambda array: array), to_bits(10), to_bits(7)


def multiply_in(rounding: Rounding) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda left, right: rounding(left) @ rounding(right)


def convolve_in(rounding: Rounding) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def convolve(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        return np.einsum("bchw,dc->bdhw", rounding(images), rounding(kernels)[:, :, 0, 0], optimize=True)

    return convolve


@pytest.fixture
def case(case_content: dict[str, Any]) -> Callable[..., Case]:
    def make(**changes: Any) -> Case:
        return case_from_dict({**case_content, **changes})

    return make


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [(IEEE, "ieee"), (TF32, "tf32"), (BF16, "other"), (as_float16, "other")],
    ids=["ieee", "tf32", "bf16", "fp16"],
)
@pytest.mark.parametrize("terms", [256, 1024])
def test_a_product_tells_what_its_factors_were_rounded_to(
    rounding: Rounding, expected: str, terms: int
) -> None:
    factors = np.full((8, terms), FACTOR, np.float32)
    assert FACTOR == factors[0, 0], "float32 holds it exactly"
    assert expected == arithmetic_of(multiply_in(rounding)(factors, factors.T), terms)


def test_one_rounded_factor_or_one_wrong_element_is_enough() -> None:
    factors = np.full((8, 256), FACTOR, np.float32)
    assert "tf32" == arithmetic_of(TF32(factors) @ factors.T, 256)
    product = factors @ factors.T
    product[3, 4] = np.nan
    assert "other" == arithmetic_of(product, 256)


def test_a_long_float32_sum_in_order_is_still_ieee() -> None:
    total = np.float32(0)
    for _ in range(1024):
        total += np.float32(FACTOR) * np.float32(FACTOR)
    assert "ieee" == arithmetic_of(np.array([total]), 1024)


@pytest.mark.parametrize(("device", "options"), [("cpu", {}), ("cpu", {"tf32": True}), ("cuda", {})])
def test_without_tf32_both_are_ieee(case: Callable[..., Case], device: str, options: dict) -> None:
    """The option acts on CUDA alone."""
    assert {
        "fp32_precision": "ieee",
        "fp32_arithmetic": {"product": "ieee", "convolution": "ieee"},
    } == fp32_facts(case(device=device, options=options), multiply_in(IEEE), convolve_in(IEEE))


def test_with_tf32_both_are_tf32(case: Callable[..., Case]) -> None:
    tf32 = case(device="cuda", options={"tf32": True})
    assert uses_tf32(tf32)
    assert {
        "fp32_precision": "tf32",
        "fp32_arithmetic": {"product": "tf32", "convolution": "tf32"},
    } == fp32_facts(tf32, multiply_in(TF32), convolve_in(TF32))


@pytest.mark.parametrize(
    ("product", "convolution", "words"),
    [
        (TF32, IEEE, "set to ieee, but a matrix product is computed in tf32 and a convolution in ieee"),
        (IEEE, TF32, "set to ieee, but a matrix product is computed in ieee and a convolution in tf32"),
        (IEEE, as_float16, "a convolution in other"),
    ],
)
def test_a_false_name_fails(
    case: Callable[..., Case], product: Rounding, convolution: Rounding, words: str
) -> None:
    with pytest.raises(WrongArithmeticError, match=words):
        fp32_facts(case(device="cuda"), multiply_in(product), convolve_in(convolution))


def test_tf32_on_a_gpu_without_it_fails_and_says_what_to_do(case: Callable[..., Case]) -> None:
    tf32 = case(device="cuda", options={"tf32": True})
    with pytest.raises(WrongArithmeticError, match=r"set to tf32, .* in ieee .*; remove the option tf32"):
        fp32_facts(tf32, multiply_in(IEEE), convolve_in(IEEE))


def test_a_library_that_uses_tf32_for_one_of_both_is_not_taken_for_an_old_gpu(
    case: Callable[..., Case],
) -> None:
    tf32 = case(device="cuda", options={"tf32": True})
    with pytest.raises(
        WrongArithmeticError, match="libraries do not use TF32 for both here; remove the option"
    ):
        fp32_facts(tf32, multiply_in(TF32), convolve_in(IEEE))
