"""The frameworks' own readers compared on a data set, for `dlperf align --data`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dlperf.adapters.registry import load_adapters
from dlperf.align.certificate import ReaderPair, Readers
from dlperf.align.participants import Participant
from dlperf.align.readers import Read, compare_readers, reader_pair
from dlperf.cli import main
from dlperf.data.make import make
from dlperf.files import shipped_root
from dlperf.plan.case import DataSet
from dlperf.plan.data_sets import data_set
from dlperf.plan.sweep import DataEntry
from dlperf.running.supervision import Interrupts

DATA = DataSet(
    path="/data/faces", forms=("recordio",), images=100, classes=10, index_sha256="0" * 64, read="warm"
)


def faults(pair: ReaderPair) -> tuple[str, ...]:
    return Readers(data=DATA, images=8, largest_allowed=4, pairs=(pair,)).faults()


def batches(label: int = 3, level: int = 100) -> Read:
    images = np.full((2, 4, 3, 112, 112), 100, np.uint8)
    labels = np.arange(8, dtype=np.int64).reshape(2, 4)
    images[1, 2, 0, 5, 5] = level
    labels[0, 3] = label
    return images, labels


@pytest.mark.parametrize("level", [96, 104])
def test_small_differences_of_decoders_pass(level: int) -> None:
    pair = reader_pair("a", "b", {"a": batches(), "b": batches(level=level)})
    assert (4, None) == (pair.largest, pair.first_other_label)
    assert () == faults(pair)


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (batches(level=105), "the readers of a and b differ: pixels by up to 5 of 255, more than 4"),
        (batches(level=0), "the readers of a and b differ: pixels by up to 100 of 255, more than 4"),
        (batches(label=9), "the readers of a and b differ: another label from image 3 on"),
        ("no such file", "the readers of a and b have nothing to compare: b: no such file"),
    ],
)
def test_other_pixels_labels_or_nothing_are_faults(other: Read | str, fault: str) -> None:
    assert (fault,) == faults(reader_pair("a", "b", {"a": batches(), "b": other}))


def test_a_reader_needs_another_one_and_a_data_set(tmp_path: Path) -> None:
    words = ["align", "quickstart", "--data", str(tmp_path), "--out", str(tmp_path)]
    alone = CliRunner().invoke(main, [*words, "--frameworks", "pytorch", "--reference", "always"])
    nothing = CliRunner().invoke(main, [*words, "--frameworks", "pytorch,mxnet"])

    assert (2, 2) == (alone.exit_code, nothing.exit_code)
    assert "--data: give two or more frameworks" in alone.stderr
    assert f"--data: {tmp_path} holds no data set" in nothing.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_real_readers_read_alike_and_another_order_is_found(
    engine_python: Callable[[str], Path], tmp_path: Path
) -> None:
    make(tmp_path / "faces", images=100, classes=10, seed=1, parts=2, quality=90)
    make(tmp_path / "other", images=100, classes=10, seed=2, parts=2, quality=90)
    participants = [
        Participant(
            name=f"{name}=={adapter.versions[0]}",
            version=adapter.versions[0],
            adapter=adapter,
            python=engine_python(name),
            code=shipped_root(),
        )
        for name, adapter in load_adapters().items()
        if name in {"jax", "mxnet", "oneflow", "pytorch"}
    ]

    def compared() -> Readers:
        return compare_readers(
            participants,
            data_set(DataEntry(path=str(tmp_path / "faces"))),
            folder=tmp_path / "work",
            time_limit_seconds=300,
            interrupts=Interrupts(say=print),
            say=print,
        )

    alike = compared()
    assert () == alike.faults()
    assert 6 == len(alike.pairs)
    assert [0] * 6 == [pair.largest for pair in alike.pairs]  # in the pinned versions
    assert "256 images of faces in one order with the same labels and the same pixels" in alike.summary()

    shutil.rmtree(tmp_path / "faces" / "ofrecord")
    shutil.copytree(tmp_path / "other" / "ofrecord", tmp_path / "faces" / "ofrecord")
    differ = compared()
    assert 3 == len(differ.faults())
    assert all("oneflow" in fault and "another label" in fault for fault in differ.faults())
