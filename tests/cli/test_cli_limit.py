"""`dlperf limit` as a person meets it: what is wrong, and what would run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from dlperf.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def limit(*words: str) -> Result:
    return CliRunner().invoke(main, ["limit", *words])


BATCH = ("quickstart", "--axis", "batch_size", "--framework", "pytorch", "--device", "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quickstart",), "Missing option '--axis'"),
        (("nothing", "--axis", "batch_size", "--memory", "2GiB"), "unknown experiment 'nothing'"),
        (BATCH, "max on a CPU needs a memory budget in place of a GPU's memory, such as 'memory: 2GiB'"),
        ((*BATCH, "--memory", "2GB"), "'2GB' is not a size; write a whole number with KiB, MiB, GiB or TiB"),
        (
            (*BATCH, "--memory", "2GiB", "--batch-size", "8"),
            "--batch-size: is the quantity being searched for",
        ),
        (
            (*BATCH, "--memory", "2GiB", "--granularity", "10", "--upper", "5"),
            "5 is less than the granularity of 10",
        ),
        ((*BATCH, "--memory", "2GiB", "--granularity", "0"), "--granularity"),
        (
            ("quickstart", "--axis", "num_classes", "--batch-size", "0", "--memory", "2GiB"),
            "--batch-size: batch_size_per_device: must be greater than 0, not 0",
        ),
        ((*BATCH, "--memory", "2GiB", "--topology", "2x"), "'2x' is not a topology"),
        ((*BATCH, "--memory", "2GiB", "--parallelism", "tensor"), "--parallelism"),
        ((*BATCH[:4], "torch", *BATCH[5:], "--memory", "2GiB"), "unknown framework 'torch'"),
        (
            ("quickstart", "--axis", "batch_size", "--device", "cuda", "--memory", "2GiB"),
            "limits CPU devices, and a GPU has its own memory",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = limit(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_dry_run_shows_max_and_every_process_and_runs_nothing(tmp_path: Path) -> None:
    done = limit(*BATCH, "--memory", "2GiB", "--topology", "1n1g", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "limit_quickstart_batch_size: 1 case, 1 run" in done.stdout
    assert "memory 2GiB" in done.stdout
    assert " max " in done.stdout
    assert "frameworks.pytorch.train" in done.stdout
    assert [] == list(tmp_path.iterdir())


def test_the_smallest_value_is_one_that_the_engine_can_train() -> None:
    """PyTorch refuses a batch of one image; nobody who asks for the largest batch asks for that."""
    done = limit(*BATCH, "--memory", "2GiB", "--dry-run")
    assert "unsupported" not in done.stdout


def test_the_help_has_examples() -> None:
    assert "dlperf limit y1_emore --axis batch_size --memory 2GiB" in limit("--help").stdout
