"""What gradients travel in is a part of the case, and older cases keep their names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from run_folders import make_case

from frameworks.common.case import case_from_dict


def test_the_default_is_not_written() -> None:
    case = make_case(precision="fp16")
    assert "gradient_dtype" not in case.model_dump()
    assert "float32" == case_from_dict(case.model_dump(mode="json")).gradient_dtype
    assert case.case_id == case.changed(gradient_dtype="float32").case_id


def test_another_one_is_read_by_the_programs_and_stands_in_the_name() -> None:
    case = make_case(precision="fp16", gradient_dtype="float16")
    assert "float16" == case_from_dict(case.model_dump(mode="json")).gradient_dtype
    assert "_fp16_float16-gradients-" in case.case_id
    assert case.content_hash != make_case(precision="fp16").content_hash


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float16"), ("bf16", "float16"), ("fp16", "bfloat16")]
)
def test_gradients_are_no_narrower_than_products_and_have_a_loss_scale_where_they_need_one(
    precision: str, dtype: str
) -> None:
    with pytest.raises(ValidationError, match=f"{dtype} does not go with precision {precision}"):
        make_case(precision=precision, gradient_dtype=dtype)
