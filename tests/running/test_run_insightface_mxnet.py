"""InsightFace's own trainers for MXNet through `dlperf run`, from a checkout, on data that dlperf made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from upstream import checkout

from dlperf.adapters.insightface_mxnet import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]

IRESNET = {
    "network": "iresnet18",
    "head": "FC",
    "embedding_size": 64,
    "dataset": "faces",
    "num_classes": 10,
    "loss": {"kind": "cosface", "m3": 0.4},
}


def write(lab: SweepLab, python: Path, **keys: Any) -> None:
    """One case of the trainers, on 24 images of 10 classes."""
    source = checkout("DLPERF_UPSTREAM_INSIGHTFACE", url=ADAPTER.source.url, commit=ADAPTER.source.commits[0])
    made = lab.dlperf("data", "make", "faces", "--images", "24", "--classes", "10")
    assert made.returncode == 0, made.stderr
    lab.write(
        frameworks=[{"name": "insightface_mxnet", "python": str(python), "source": str(source)}],
        oversubscribe=True,
        data={"path": "faces"},
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1},
        **keys,
    )
    (lab.folder / "experiments" / "faces.yaml").write_text(yaml.safe_dump(IRESNET))


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ({"parallelism": "data"}, "INFO:root:Epoch["),
        ({"parallelism": "data", "topology": "1n2g"}, "+        ctx = [mx.cpu(i) for i in range(2)]"),
        (
            {"parallelism": "model", "topology": "1n2g", "experiment": "faces"},
            "+                             context=self._context[i],",
        ),
        (
            {"parallelism": "partial_fc", "sample_ratio": 0.5, "experiment": "faces", "topology": "1n2g"},
            "+        self.gpu = mx.cpu()",
        ),
    ],
    ids=["train", "train-2", "train_parall-2", "train_memory-2"],
)
def test_a_program_trains_and_is_measured(
    lab: SweepLab, engine_python: Callable[[str], Path], keys: dict[str, Any], lines: str
) -> None:
    write(lab, engine_python("insightface_mxnet"), **keys)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert result.case.source is not None
    assert ADAPTER.source.commits[0] == result.case.source.commit
    assert result.figures is not None
    assert (3, 1) == (result.figures.accepted_steps, result.figures.dropped_steps)
    assert result.figures.loss_first is None or 0 < result.figures.loss_first < 100
    (folder,) = lab.run_folders()
    assert lines in (folder / "logs" / "rank0.log").read_text()
    assert set() == lab.left()


def test_a_damaged_image_ends_it_as_a_failure_of_the_data(
    lab: SweepLab, engine_python: Callable[[str], Path]
) -> None:
    """The thread that reads fails alone; the program itself would wait for ever."""
    write(lab, engine_python("insightface_mxnet"))
    records = lab.folder / "faces" / "train.rec"
    content = bytearray(records.read_bytes())
    lines = (lab.folder / "faces" / "train.idx").read_text().splitlines()
    # All but the first image and the last: the program shuffles, and a plan looks at the last.
    begin, end = (int(lines[number].split()[1]) for number in (1, 23))
    content[begin:end] = bytes(end - begin)
    records.write_bytes(content)
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert "data" == result.status
    assert f"train.rec: record 1 at byte {begin}: " in str(result.reason)
    assert set() == lab.left()
