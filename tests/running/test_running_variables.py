"""Environment variables: which reach the ranks, which are secret, which are misspelt."""

from __future__ import annotations

import pytest

from dlperf.running.launch import inherited, misspelt, redacted


def test_engines_and_places_are_inherited_and_nothing_else() -> None:
    environment = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "1",
        "PYTHONPATH": "/elsewhere",
        "VIRTUAL_ENV": "/venv",
        "MYPATH": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "http_proxy": "x",
    }
    assert list(inherited(environment)) == ["CUDA_VISIBLE_DEVICES", "LC_ALL", "NCCL_DEBUG", "PATH"]


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "api_key", "MXNET_SECRET", "DB_PASSWORD", "SSH_KEY_FILE", "ONEFLOW_CREDENTIALS"]
)
def test_secrets_are_left_out(name: str) -> None:
    assert redacted({name: "hunter2", "LANG": "C"}) == {name: "(redacted)", "LANG": "C"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NCLL_DEBUG", "NCCL_"),
        ("NCLL", "NCCL_"),
        ("NCL_DEBUG", "NCCL_"),
        ("NCCCL_DEBUG", "NCCL_"),
        ("NCC1_DEBUG", "NCCL_"),
        ("HORVOD_TIMELINE", "HOROVOD_"),
        ("HOROVDO_TIMELINE", "HOROVOD_"),
        ("ONEFLOWW_DEBUG", "ONEFLOW_"),
        ("MXNTE_ENGINE", "MXNET_"),
    ],
)
def test_one_slip_in_a_prefix_is_noticed(name: str, meant: str) -> None:
    assert misspelt({name: "1"}) == {name: meant}


@pytest.mark.parametrize(
    "name", ["NCCL_DEBUG", "HOROVOD_TIMELINE", "ONEFLOW_X", "MXNET_X", "NAME", "NCURSES_X", "NLC_X", "", "_"]
)
def test_right_and_unrelated_names_are_left_alone(name: str) -> None:
    assert misspelt({name: "1"}) == {}
