"""-k, --only and --exclude name cases of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.errors import UserError
from dlperf.plan.load import load_sweep
from dlperf.plan.plan import Plan, make_plan
from dlperf.plan.selection import KEYS, parse_expression, select

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.plan.machine import Machine


@pytest.fixture(scope="session")
def plan(adapters: Any, cluster: Machine, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder: Path = tmp_path_factory.mktemp("empty")
    return make_plan(
        load_sweep("r100_emore", adapters=adapters, folder=folder), adapters=adapters, machine=cluster
    )


def expected(plan: Plan, test: Callable[[Case], bool]) -> list[str]:
    return [item.case_id for item in plan.cases if test(item.case)]


def ids(plan: Plan) -> list[str]:
    return [item.case_id for item in plan.cases]


@pytest.mark.parametrize(
    ("expression", "test"),
    [
        ("framework==mxnet", lambda case: case.framework == "mxnet"),
        ("framework=='mxnet==1.9.1'", lambda case: case.framework == "mxnet"),
        (
            "framework == mxnet and topology == 1n8g",
            lambda case: case.framework == "mxnet" and str(case.topology) == "1n8g",
        ),
        ("framework!=mxnet", lambda case: case.framework != "mxnet"),
        ("nodes > 1", lambda case: case.topology.nodes > 1),
        ("world_size<=4", lambda case: case.topology.world_size <= 4),
        ("sample_ratio==1", lambda case: case.sample_ratio == 1),
        ("sample_ratio!=1", lambda case: case.sample_ratio != 1),
        ("sample_ratio<2", lambda case: case.sample_ratio is not None),
        ("not partial_fc", lambda case: case.parallelism != "partial_fc"),
        ("mxnet-1.9.1", lambda case: case.framework == "mxnet"),
        ("case_id~oneflow", lambda case: case.framework == "oneflow"),
        (
            "mxnet and (data or model) and not nodes>1",
            lambda case: case.framework == "mxnet" and case.parallelism in ("data", "model"),
        ),
        # `and` binds tighter than `or`
        (
            "oneflow or mxnet and batch_size_per_device==96",
            lambda case: (
                case.framework == "oneflow"
                or (case.framework == "mxnet" and case.batch_size_per_device == 96)
            ),
        ),
        ("status==runnable", lambda case: case.topology.nodes == 1),
        ("status==unavailable", lambda case: case.topology.nodes > 1),
    ],
)
def test_an_expression_selects(plan: Plan, expression: str, test: Callable[[Case], bool]) -> None:
    selected = select(plan, expression=expression)
    assert expected(plan, test) == ids(selected)
    assert [run for run in plan.runs if run.case_id in ids(selected)] == list(selected.runs)


def test_only_takes_any_value_of_a_key_and_all_keys(plan: Plan) -> None:
    selected = select(plan, only=["framework=mxnet,oneflow", "framework=pytorch,jax", "topology=1n1g"])
    assert expected(plan, lambda case: str(case.topology) == "1n1g") == ids(selected)
    selected = select(plan, only=["framework=mxnet==1.9.1", "batch_size_per_device=64"])
    assert expected(plan, lambda case: case.framework == "mxnet" and case.batch_size_per_device == 64) == ids(
        selected
    )


def test_exclude_leaves_out_what_meets_any_of_its_pairs(plan: Plan) -> None:
    selected = select(plan, exclude=["framework=mxnet", "topology=2n8g,4n8g"])
    assert expected(plan, lambda case: case.framework != "mxnet" and case.topology.nodes == 1) == ids(
        selected
    )


def test_without_conditions_everything_is_selected(plan: Plan) -> None:
    assert plan == select(plan)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("framwork==mxnet", "-k: column 1: unknown key 'framwork' (did you mean 'framework'?)"),
        ("mxnet and nods==1", "-k: column 11: unknown key 'nods' (did you mean 'nodes'?)"),
        ("framework=mxnet", "-k: column 10: cannot read '=mxnet'; compare with ==, != or ~"),
        ("nodes==many", "-k: column 1: nodes is a number, not 'many'"),
        ("framework<mxnet", "-k: column 1: framework is text; compare it with ==, != or ~"),
        ("(mxnet", "-k: column 7: expected ')', found the end"),
        ("mxnet)", "-k: column 6: expected 'and', 'or' or the end, found ')'"),
        ("mxnet data", "-k: column 7: expected 'and', 'or' or the end, found 'data'"),
        ("mxnet and", "-k: column 10: expected a key, a part of a case's id, 'not' or '(', found the end"),
        ("and", "-k: column 1: expected a key, a part of a case's id, 'not' or '(', found 'and'"),
        ("", "-k: column 1: expected a key, a part of a case's id, 'not' or '(', found the end"),
        ("framework==", "-k: column 12: expected a value after ==, found the end"),
        ("'open", '-k: column 1: cannot read "\'open"; compare with ==, != or ~'),
        ("(" * 100_000, "-k: nested too deeply"),
        ("(" * 180 + "mxnet" + ")" * 180, "-k: nested too deeply"),
    ],
)
def test_an_expression_that_cannot_be_read_shows_where(plan: Plan, expression: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        select(plan, expression=expression)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("framework", "--only framework: write key=value, such as --only framework=mxnet"),
        ("topolgy=1n1g", "--only topolgy=1n1g: unknown key 'topolgy' (did you mean 'topology'?)"),
        ("nodes=x", "--only nodes=x: nodes is a number, not 'x'"),
        ("framework=caffe", "nothing selected: none of the 72 cases of r100_emore matches"),
    ],
)
def test_a_pair_that_cannot_be_read_is_named(plan: Plan, only: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        select(plan, only=[only])
    assert message == str(caught.value)


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*KEYS, "==", "(", ")", "and", "or", "not", "1", "<"])).map(" ".join)
)
def test_no_text_raises_anything_but_a_user_error(plan: Plan, text: str) -> None:
    try:
        test = parse_expression(text)
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert all(test(item) in (True, False) for item in plan.cases[:3])
    assert "\n" not in refusal or "\n" in text
