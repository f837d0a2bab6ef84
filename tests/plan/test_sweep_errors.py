"""Every mistake in a sweep or experiment file shows with its place, all of them at once."""

# ruff: noqa: E501 - a message is one line, as it is printed

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import at_most

from dlperf.errors import SourceErrors, UserError
from dlperf.files import shipped_folder
from dlperf.plan.load import Setting, axis_setting, load_experiment, load_sweep, value_setting
from dlperf.plan.plan import make_plan
from dlperf.plan.sweep import Condition, FrameworkEntry, SweepFile

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.machine import Machine

GOOD = """\
experiment: quickstart
frameworks: [mxnet==1.9.1, oneflow==0.9.0]
topology: 1n1g
batch_size_per_device: 8
"""

GOOD_JSON = '{"experiment": "quickstart", "frameworks": "mxnet==1.9.1", "topology": "1n1g", "batch_size_per_device": 8}'


def problems(text: str, adapters: Any, folder: Path, *, given: tuple[Setting, ...] = ()) -> list[str]:
    """The problems of a sweep file with this text, as they are printed."""
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    try:
        load_sweep("s.yaml", adapters=adapters, settings=given, folder=folder)
    except SourceErrors as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_good_file_has_no_problem(adapters: Any, tmp_path: Path) -> None:
    assert [] == problems(GOOD, adapters, tmp_path)
    another_version = "include: [{frameworks: {name: mxnet, version: 1.8.0, python: /opt/python}}]\n"
    assert [] == problems(GOOD + another_version, adapters, tmp_path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("batchsize: 8", "5:1: unknown key 'batchsize' (did you mean 'batch_size_per_device'?)"),
        ("measure: {warmup: 2}", "5:11: unknown key 'warmup' (did you mean 'warmup_iterations'?)"),
        (
            "measure: {qqq: 2}",
            "5:11: unknown key 'qqq'; known: warmup_iterations, measured_iterations, max_interference, telemetry, repeats",
        ),
        ("parallelism: []", "5:1: parallelism: must not be empty"),
        ("exclude: [{when: {}, why: no}]", "5:12: exclude[0].when: must name at least one key, such as 'framework: mxnet'"),
        ("exclude: [{when: {framework: mxnet}}]", "5:11: exclude[0]: key 'why' is missing"),
        ("exclude: [{when: {framework: mxnet}, why: ''}]", None),
        ("exclude: [{when: {topolgy: 1n1g}, why: x}]", "5:19: unknown key 'topolgy' (did you mean 'topology'?)"),
        ("exclude: [{when: {framework: mxnt}, why: x}]", None),
        ("exclude: [{when: {experiment: y1}, why: x}]", None),
        ("exclude: [{when: {topology: 9n9g}, why: x}]", "5:12: exclude[0].when: matches no cell of the grid"),
        ("exclude: [{when: {nodes: 1}, why: x}]", "5:1: exclude: excludes every cell; nothing is left to run"),
        ("parallelism: dta", "5:14: parallelism: must be one of data, model, partial_fc, not text 'dta' (did you mean 'data'?)"),
        ("parallelism: partial_fc", "5:14: parallelism: partial_fc needs a sample_ratio, such as 'sample_ratio: 0.1'"),
        (
            "sample_ratio: 0.1",
            "5:15: sample_ratio: has no effect: this sweep does not use parallelism partial_fc",
        ),
        (
            "include: [{sample_ratio: 0.1}]",
            "5:26: include[0].sample_ratio: applies only to parallelism partial_fc",
        ),
        (
            "include: [{parallelism: partial_fc}]",
            "5:11: include[0]: partial_fc needs a sample_ratio, such as 'sample_ratio: 0.1'",
        ),
        ("include: [{frameworks: pytorch==9.9}]", None),
        ("include: [{experiment: nope}]", None),
        ("sample_ratio: 1.5", "5:15: sample_ratio: must be less than or equal to 1, not 1.5"),
        ("sample_ratio: 0", "5:15: sample_ratio: must be greater than 0, not 0"),
        ("num_classes: -3", "5:14: num_classes: must be greater than 0, not -3"),
        ("num_classes: 2.5", "5:14: num_classes: must be a whole number, not 2.5"),
        ("num_classes: many", "5:14: num_classes: must be a whole number, not text 'many'"),
        (
            "num_classes: max\ndevice: cpu",
            "1:1: max on a CPU needs a memory budget in place of a GPU's memory, such as 'memory: 2GiB'",
        ),
        ("memory: 2GB", None),
        (
            "precision: [fp32, fp16]\ngradient_dtype: float16",
            "6:17: gradient_dtype: float16 gradients go with precision fp16 alone; put fp32 in another sweep",
        ),
        (
            "precision: fp16\ngradient_dtype: float16\ninclude: [{precision: bf16}]",
            "7:11: include[0]: float16 gradients go with precision fp16 alone; put bf16 in another sweep",
        ),
        ("gradient_dtype: fp16", None),
        ("num_classes: [5, 5]", "5:1: num_classes: 5 appears twice"),
        ("num_classes: {}", "5:1: num_classes: must be a whole number, not a mapping"),
        ("seed: true", "5:7: seed: must be a whole number, not true"),
        ("seed: .nan", "5:7: seed: must be a whole number, not nan"),
        ("seed: 0\nseed: 1", "6:1: key 'seed' appears twice (first on line 5); remove one"),
        ("order: random", None),
        ("device: gpu", None),
        ("threads_per_device: 0", None),
        ("limits: {time: 3 weeks}", "5:16: limits.time: '3 weeks' is not a duration; write seconds, or a number with s, m or h, such as '30m'"),
        ("limits: {time: 0}", "5:16: limits.time: must be greater than 0, not 0"),
        ("limits: {time: .inf}", "5:16: limits.time: must be a finite number, not inf"),
        ("options: {mxnt: {}}", None),
        ("options: {mxnet: {fst: true}}", "5:19: unknown key 'fst' (did you mean 'fast'?)"),
        ("options: {mxnet: {fast: 1}}", "5:25: options.mxnet.fast: must be true or false, not 1"),
        ("options: {mxnet: [1]}", None),
        ("measure: 5", "5:10: measure: must be a mapping of keys to values, not 5"),
        ("measure: {repeats: 0}", "5:20: measure.repeats: must be greater than 0, not 0"),
        ("measure: {repeats: 9999999}", "5:20: measure.repeats: 19999998 runs in total, more than 1000000; use fewer repeats"),
        (
            "include: [{frameworks: {name: mxnet, python: /opt/python}, batch_size_per_device: 9}]",
            "5:12: include[0].frameworks[0]: mxnet==1.9.1 can have only one interpreter in a sweep; elsewhere it uses dlperf's own environment",
        ),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem_at_its_place(
    adapters: Any, tmp_path: Path, line: str, problem: str | None
) -> None:
    found = problems(f"{GOOD}{line}\n", adapters, tmp_path)
    assert 1 == len(found), found
    assert found[0].startswith("s.yaml:")
    if problem is not None:
        assert f"s.yaml:{problem}" == found[0]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("topology", "2x8", "s.yaml:3:11: topology: '2x8' is not a topology; write nodes and devices per node, such as '2n8g'"),
        ("topology", "[1n1g, 0n1g]", "s.yaml:3:18: topology[1]: '0n1g' is not a topology; write nodes and devices per node, such as '2n8g'"),
        ("topology", "{nodes: 2}", "s.yaml:3:1: topology: key 'devices_per_node' is missing"),
        ("topology", "{nodes: two, devices_per_node: 8}", "s.yaml:3:19: topology.nodes: must be a whole number, not text 'two'"),
        ("topology", "{node: 2, nodes: 2, devices_per_node: 8}", "s.yaml:3:12: unknown key 'node' (did you mean 'nodes'?)"),
        ("frameworks", "mxnt==1.9.1", "s.yaml:2:13: frameworks: unknown framework 'mxnt' (did you mean 'mxnet'?)"),
        ("frameworks", "[caffe==1.0]", "s.yaml:2:14: frameworks[0]: unknown framework 'caffe'; known: jax, mxnet, oneflow, pytorch"),
        ("frameworks", "mxnet==", "s.yaml:2:13: frameworks: 'mxnet==' is not a framework; write name==version, such as 'mxnet==1.9.1'"),
        ("frameworks", "mxnet==0.1", "s.yaml:2:13: frameworks[0]: mxnet 0.1 is not known; known: 1.9.1, 1.8.0"),
        ("frameworks", "{name: mxnet, version: 1.9}", "s.yaml:2:36: frameworks.version: must be text, not 1.9; put it in quotes"),
        ("frameworks", "{version: 1.9.1}", "s.yaml:2:1: frameworks: key 'name' is missing"),
        ("frameworks", "[mxnet, mxnet==1.9.1]", "s.yaml:2:21: frameworks[1]: mxnet==1.9.1 appears twice"),
        ("frameworks", "5", "s.yaml:2:13: frameworks: must be a mapping of keys to values, not 5"),
        ("experiment", "[]", "s.yaml:1:1: experiment: must not be empty"),
        ("experiment", "quikstart", "s.yaml:1:13: unknown experiment 'quikstart' (did you mean 'quickstart'?)"),
    ],
)  # fmt: skip
def test_a_wrong_axis_is_one_problem_at_its_place(
    adapters: Any, tmp_path: Path, key: str, value: str, expected: str
) -> None:
    lines = [f"{key}: {value}" if line.startswith(key) else line for line in GOOD.splitlines()]
    assert [expected] == problems("\n".join(lines), adapters, tmp_path)


def test_a_grid_beyond_all_measure_is_refused_before_it_is_made(adapters: Any, tmp_path: Path) -> None:
    numbers = ", ".join(map(str, range(1, 151)))
    text = f"{GOOD}num_classes: [{numbers}]\n".replace("device: 8", f"device: [{numbers}]")
    assert [
        "s.yaml:1:1: the grid has 45000 cells, more than 20000; split it into several sweeps"
    ] == problems(text, adapters, tmp_path)


@pytest.mark.parametrize("key", ["experiment", "frameworks", "topology", "batch_size_per_device"])
def test_a_missing_key_is_named(adapters: Any, tmp_path: Path, key: str) -> None:
    text = "".join(f"{line}\n" for line in GOOD.splitlines() if not line.startswith(key))
    assert [f"s.yaml:1:1: key {key!r} is missing"] == problems(text, adapters, tmp_path)


def test_all_mistakes_of_all_files_are_found_at_once(adapters: Any, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "network: iresnet101\n"
        "head: E\n"
        "embedding_size: big\n"
        "dataset: d\n"
        "num_classes: 10\n"
        "loss: {kind: arcface, m3: 0.4}\n"
        "schedule: {steps: [10, 20], scales: [0.1]}\n"
        "experiment: other\n"
    )
    text = (
        "experiment: [mine, nope]\n"
        "frameworks: [mxnt==1.9.1]\n"
        "topology: 8g\n"
        "batchsize: 8\n"
        "seed: 1\n"
        "seed: 2\n"
        "options: {torch: {}}\n"
    )
    shipped = ", ".join(sorted(path.stem for path in shipped_folder("experiments").glob("*.yaml")))
    assert [
        "experiments/mine.yaml:1:10: network: must be one of iresnet18, iresnet34, iresnet50, iresnet100, mobilefacenet, not text 'iresnet101' (did you mean 'iresnet100'?)",
        "experiments/mine.yaml:3:17: embedding_size: must be a whole number, not text 'big'",
        "experiments/mine.yaml:6:1: loss: arcface does not use m3; remove it, or use kind 'combined'",
        "experiments/mine.yaml:7:1: schedule: 2 steps but 1 scale; give one scale per step",
        "experiments/mine.yaml:8:1: the experiment's name is the file's name; remove this key",
        "s.yaml:1:1: key 'batch_size_per_device' is missing",
        f"s.yaml:1:20: unknown experiment 'nope'; known: mine, {shipped}",
        "s.yaml:2:14: frameworks[0]: unknown framework 'mxnt' (did you mean 'mxnet'?)",
        "s.yaml:3:11: topology: '8g' is not a topology; write nodes and devices per node, such as '2n8g'",
        "s.yaml:4:1: unknown key 'batchsize' (did you mean 'batch_size_per_device'?)",
        "s.yaml:6:1: key 'seed' appears twice (first on line 5); remove one",
        "s.yaml:7:11: unknown framework 'torch' (did you mean 'pytorch'?)",
    ] == problems(text, adapters, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("network: vgg\n", "e.yaml:1:10: network: must be one of"),
        ("loss: {kind: hinge}\n", "e.yaml:1:14: loss.kind: must be one of"),
        ("optimizer: {no_decay: [weights]}\n", "e.yaml:1:24: optimizer.no_decay[0]: must be one of"),
        ("optimizer: {momentum: 1}\n", "e.yaml:1:23: optimizer.momentum: must be less than 1"),
        ("schedule: {steps: [20, 10], scales: [0.1, 0.01]}\n", "e.yaml:1:1: schedule: steps must increase"),
        ("dropout: -0.1\n", "e.yaml:1:10: dropout: must be greater than or equal to 0"),
    ],
)
def test_a_mistake_in_an_experiment_shows_in_that_file(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(SourceErrors) as caught:
        load_experiment("e.yaml", folder=tmp_path)
    assert [problem] == [
        str(found)[: len(problem)] for found in caught.value.problems if problem in str(found)
    ]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (value_setting("seed=x"), "-S seed=x: seed: must be a whole number, not text 'x'"),
        (value_setting("sed=1"), "-S sed=1: unknown key 'sed' (did you mean 'seed'?)"),
        (value_setting("measure.repeat=1"), "-S measure.repeat=1: unknown key 'repeat' (did you mean 'repeats'?)"),
        (axis_setting("topology=1n1g,9"), "-P topology=1n1g,9: topology[1]: must be a mapping of keys to values, not 9"),
        (axis_setting("experiment=a"), None),
        (value_setting("measure.max_interference=5"), "-S measure.max_interference=5: measure.max_interference: must be less than or equal to 1, not 5"),
        (value_setting("measure.max_interference=-0.1"), None),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_names_the_option(
    adapters: Any, tmp_path: Path, setting: Setting, problem: str | None
) -> None:
    found = problems(GOOD, adapters, tmp_path, given=(setting,))
    assert 1 == len(found), found
    assert found[0].startswith(setting.label)
    if problem is not None:
        assert problem == found[0]


@pytest.mark.parametrize("text", ["", "=", "seed", "=5"])
def test_an_option_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write key=value"):
        value_setting(text)
    with pytest.raises(UserError, match="write key=value"):
        axis_setting(text)


def test_a_setting_below_a_value_that_is_no_mapping_is_refused(adapters: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^-S topology\.x=1: the file has no mapping"):
        problems(GOOD, adapters, tmp_path, given=(value_setting("topology.x=1"),))


def test_with_values_from_the_command_line_exclusions_may_idle(adapters: Any, tmp_path: Path) -> None:
    text = f"{GOOD}exclude: [{{when: {{topology: 1n1g, framework: mxnet}}, why: x}}]\n"
    assert [] == problems(text, adapters, tmp_path)
    assert [] == problems(text, adapters, tmp_path, given=(axis_setting("topology=1n2g"),))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=at_most(60), deadline=None
)
@given(data=st.data())
def test_a_misspelt_key_shows_at_its_line_and_column(adapters: Any, tmp_path: Path, data: Any) -> None:
    """Wherever the key stands and however the file is indented by comments and blank lines."""
    key = data.draw(st.sampled_from(sorted(set(SweepFile.model_fields) - {"experiment", "frameworks"})))
    position = data.draw(st.integers(0, len(key) - 1))
    misspelt = key[:position] + data.draw(st.sampled_from("qxz")) + key[position:]
    padding = data.draw(st.lists(st.sampled_from(["", "# a comment", "   "]), max_size=5))
    lines = GOOD.splitlines()
    at = data.draw(st.integers(0, len(lines)))
    lines[at:at] = [*padding, f"{misspelt}: 1"]
    found = problems("\n".join(lines), adapters, tmp_path)
    assert [f"s.yaml:{at + len(padding) + 1}:1: unknown key {misspelt!r} (did you mean {key!r}?)"] == found


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(-1, 2)
    | st.sampled_from(
        ["max", "auto", "1n1g", "mxnet", "mxnet==1.9.1", "quickstart", "partial_fc", "fp32", "cuda", ""]
    )
)
_KEYS = st.sampled_from(
    sorted(
        {
            *SweepFile.model_fields,
            *Condition.model_fields,
            *FrameworkEntry.model_fields,
            "when",
            "why",
            "mxnet",
        }
    )
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=at_most(100), deadline=None
)
@given(changes=st.dictionaries(st.sampled_from(sorted(SweepFile.model_fields)), _VALUES, max_size=4))
def test_whatever_stands_in_a_file_it_loads_and_plans_or_its_problems_have_places(
    adapters: Any, laptop: Machine, tmp_path: Path, changes: dict[str, Any]
) -> None:
    text = json.dumps({**json.loads(GOOD_JSON), **changes}, indent=1)
    found = problems(text, adapters, tmp_path)
    assert all(re.match(r"s\.yaml:[1-9][0-9]*:[1-9][0-9]*: ", problem) for problem in found)
    if not found:
        sweep = load_sweep("s.yaml", adapters=adapters, folder=tmp_path)
        assert make_plan(sweep, adapters=adapters, machine=laptop).cases
