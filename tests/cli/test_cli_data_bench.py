"""`dlperf data bench`: what is wrong in one line, and real readers on a small data set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dlperf.cli import main
from dlperf.data.make import make


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, ["data", "bench", *words])


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "faces"
    make(folder, images=200, classes=10, seed=1, parts=2, quality=90)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--framework", "torch"), "--framework: unknown reader 'torch'"),
        (("--threads", "1,none"), "--threads: 'none' is no number of threads, such as 2"),
        (("--threads", "0"), "--threads: '0' is no number of threads, such as 2"),
        (("--read", "memory"), "--read: unknown way to read 'memory'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(faces: Path, words: tuple[str, ...], message: str) -> None:
    done = bench(str(faces), *words)
    assert (2, "") == (done.exit_code, done.stdout)
    assert message in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    done = bench(str(tmp_path))
    assert 2 == done.exit_code
    assert f"{tmp_path} holds no data set" in done.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_every_reader_reads_and_a_damaged_file_is_told(faces: Path) -> None:
    done = bench(str(faces), "--batch-size", "8", "--images", "80", "--json")

    assert 0 == done.exit_code, done.stderr
    rows = json.loads(done.stdout)["readers"]
    assert ["jax", "mxnet", "oneflow", "pytorch"] == [row["framework"] for row in rows]
    for row in rows:
        assert 80 == row["images"]
        assert row["images_per_second"] > 0
        assert 1 == row["resident_share"]

    path = faces / "train.rec"
    offset = int((faces / "train.idx").read_text().splitlines()[30].split("\t")[1])
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(os.urandom(4))
    done = bench(str(faces), "--batch-size", "8", "--framework", "oneflow,pytorch")

    assert 3 == done.exit_code
    assert "pytorch==2.13.0  warm        1    failed" in done.stdout
    assert f"pytorch: {path}: record 30 at byte {offset}: wrong magic number" in done.stderr
