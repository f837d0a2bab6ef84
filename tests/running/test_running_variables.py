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
    "name",
    [
        "HF_TOKEN",
        "api_key",
        "MXNET_SECRET",
        "DB_PASSWORD",
        "SSH_KEY_FILE",
        "ONEFLOW_CREDENTIALS",
        "AUTHORIZATION",
        "HF_PASS",
        "NCCL_AUTH",
        "SESSION_COOKIE",
        "MYSQL_PWD",
        "OLDPWD",
    ],
)
def test_secrets_are_redacted_by_their_name(name: str) -> None:
    assert redacted({name: "hunter2", "LANG": "C"}) == {name: "(redacted)", "LANG": "C"}


@pytest.mark.parametrize("name", ["DB_URL", "PIP_INDEX_URL", "http_proxy", "OPENBLAS_CORETYPE"])
def test_a_variable_of_no_known_engine_has_no_value(name: str) -> None:
    assert redacted({name: "hunter2"}) == {name: "(value not stored)"}


def test_what_an_adapter_sets_is_known() -> None:
    variables = {"OPENBLAS_CORETYPE": "Haswell", "STORE": "tcp://me:hunter2@10.0.0.1:29500"}
    assert redacted(variables, own=variables) == {
        "OPENBLAS_CORETYPE": "Haswell",
        "STORE": "tcp://(redacted)@10.0.0.1:29500",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host/simple", "http://(redacted)@host/simple"),
        ("http://hunter2@host", "http://(redacted)@host"),
        ("see http://me:hunter2@host/x, or git+ssh://hunter2@host", None),
        ("ftp://me:hun@ter2@host", "ftp://(redacted)@host"),
        ("http://me:hunter2/un@escaped@host/x", "http://(redacted)@host/x"),
        ("https://host/x?sig=hunter2&page=2&access_token=hunter2", None),
        ("https://host/x@1.0", "https://host/x@1.0"),
        ("mlx5_0:1,mlx5_1:1", "mlx5_0:1,mlx5_1:1"),
    ],
)
def test_secrets_in_urls_are_redacted(text: str, shown: str | None) -> None:
    found = redacted({"NCCL_X": text})["NCCL_X"]
    assert "hunter2" not in found
    assert shown in (found, None)


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
