"""The readers of the engines: they give the same batches, and a run says which image is damaged."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import JAX, MXNET, ONEFLOW, PYTORCH, Engine
from face_sets import CLASSES, cut, images_of, made, overwrite, with_persons
from PIL import Image as Picture
from processes import until

from dlperf.files import shipped_root
from dlperf.plan.case import Case, DataSet, Measure, Topology
from dlperf.running.launch import free_port
from frameworks.common.dataset import EXIT_DATA
from frameworks.common.events import PREFIX
from frameworks.common.reading import mirror_coins

pytestmark = [pytest.mark.engine, pytest.mark.slow]

IMAGES = 50
FORMS = {"jax": "recordio", "mxnet": "recordio", "oneflow": "ofrecord", "pytorch": "recordio"}
EVERY_ENGINE = pytest.mark.parametrize(
    "engine", [JAX, MXNET, ONEFLOW, PYTORCH], ids=lambda engine: engine.name
)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return made(tmp_path / "faces", images=IMAGES)


@pytest.fixture
def data_case(case_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a case with a data set; fields of it can be set."""

    def write(data: DataSet, **changes: Any) -> Path:
        case = Case.model_validate_json(case_file(batch_size=4).read_text())
        path = tmp_path / "data_case.json"
        path.write_text(case.changed(data=data, **changes).model_dump_json())
        return path

    return write


def expected_batches(folder: Path, first: int, last: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What a device reads, `count` batches of 4, decoded by Pillow."""
    found = images_of(folder)[first:last]
    numbers = np.arange(4 * count)
    epochs, places = np.divmod(numbers, last - first)
    images = np.stack([np.asarray(Picture.open(io.BytesIO(jpeg))).transpose(2, 0, 1) for _, jpeg in found])[
        places
    ]
    coins = mirror_coins(0, epochs * IMAGES + first + places)
    images[coins] = images[coins][:, :, :, ::-1]
    labels = np.array([label for label, _ in found])[places]
    return images.reshape(count, 4, 3, 112, 112), labels.reshape(count, 4)


@EVERY_ENGINE
@pytest.mark.parametrize("read", ["warm", "memory"])
def test_a_reader_gives_every_image_in_order_and_mirrors_by_the_coins(
    engine: Engine,
    data: DataSet,
    data_case: Callable[..., Path],
    run_python: Callable[..., str],
    tmp_path: Path,
    read: str,
) -> None:
    """Two epochs and more, whose last batch goes on at the first image."""
    outputs, count = tmp_path / "batches.npz", 29
    measure = Measure(warmup_iterations=0, measured_iterations=count)
    path = data_case(data.model_copy(update={"read": read}), measure=measure)

    run_python("-m", f"frameworks.{engine.name}.data", path, outputs, str(count))

    with np.load(outputs) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    expected_images, expected_labels = expected_batches(tmp_path / "faces", 0, IMAGES, count)
    assert expected_labels.tolist() == labels.tolist()
    assert (np.uint8, np.int64) == (images.dtype, labels.dtype)
    differences = np.abs(images.astype(int) - expected_images.astype(int))
    assert differences.max() <= 4  # libjpeg's versions round differently


@EVERY_ENGINE
def test_two_devices_read_the_halves(
    engine: Engine,
    data: DataSet,
    data_case: Callable[..., Path],
    engine_python: Callable[[str], Path],
    tmp_path: Path,
    rank_processes: Any,
) -> None:
    path = data_case(data, topology=Topology(nodes=1, devices_per_node=2))
    port = free_port()
    outputs = [tmp_path / f"batches{rank}.npz" for rank in range(2)]
    processes = []
    for rank in range(2):
        argv = [engine_python(engine.name), "-m", f"frameworks.{engine.name}.data", path, outputs[rank], "8"]
        environment = {
            **engine.environment,
            "PYTHONPATH": str(shipped_root()),
            "DLPERF_RANK": str(rank),
            "DLPERF_WORLD_SIZE": "2",
            # OneFlow meets when it is imported.
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes += rank_processes.start(argv, [environment])
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert 0 == process.returncode, errors
    for rank, output in enumerate(outputs):
        with np.load(output) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        first, last = (IMAGES * number // 2 for number in (rank, rank + 1))
        expected_images, expected_labels = expected_batches(tmp_path / "faces", first, last, 8)
        assert expected_labels.tolist() == labels.tolist()
        assert np.abs(images.astype(int) - expected_images.astype(int)).max() <= 4


@pytest.mark.parametrize("engine", [MXNET, PYTORCH], ids=lambda engine: engine.name)
def test_a_data_set_in_insightface_s_order_is_read_as_it_is(
    engine: Engine,
    data: DataSet,
    data_case: Callable[..., Path],
    run_python: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Its first record and those of persons hold no image."""
    with_persons(tmp_path / "faces", tmp_path / "upstream")
    path = data_case(data.model_copy(update={"path": str(tmp_path / "upstream")}))

    run_python("-m", f"frameworks.{engine.name}.data", path, tmp_path / "batches.npz", "29")

    with np.load(tmp_path / "batches.npz") as arrays:
        labels = arrays["labels"]
    assert expected_batches(tmp_path / "faces", 0, IMAGES, 29)[1].tolist() == labels.tolist()


class Training:
    """A training program under its watch, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def events(self, key: str) -> list[Any]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith(PREFIX)]
        events = [json.loads(line[len(PREFIX) :]) for line in lines]
        return [event["value"] for event in events if event["key"] == key]


@pytest.fixture
def training(
    engine: Engine, engine_python: Callable[[str], Path], tmp_path: Path
) -> Iterator[Callable[[Path], Training]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> Training:
        watch = ("-m", "frameworks.common.data_watch", f"frameworks.{engine.name}.train")
        argv = [str(engine_python(engine.name)), *watch, str(path), FORMS[engine.name]]
        own = {**engine.environment, "PYTHONPATH": str(shipped_root()), "OMP_NUM_THREADS": "2"}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                argv, env={**os.environ, **own}, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return Training(process, tmp_path / "log")

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@EVERY_ENGINE
def test_training_on_a_data_set_says_what_it_read_and_waited_for(
    engine: Engine, data: DataSet, data_case: Callable[..., Path], training: Callable[[Path], Training]
) -> None:
    run = training(data_case(data, num_classes=CLASSES))

    assert 0 == run.process.wait(300), run.log.read_text()

    (data_set,) = run.events("data_set")
    assert (FORMS[engine.name], "warm", IMAGES) == (data_set["form"], data_set["read"], data_set["images"])
    warmup, measured = run.events("reading")
    for reading in (warmup, measured):
        assert 0 < reading["wait_seconds"] < reading["seconds"]
    assert 4 == len(run.events("tracked_stats"))
    (framework,) = run.events("framework")
    assert 1 == framework["reader_threads"]


@EVERY_ENGINE
def test_a_file_cut_while_it_trains_ends_the_run_with_the_record(
    engine: Engine,
    data: DataSet,
    data_case: Callable[..., Path],
    training: Callable[[Path], Training],
    tmp_path: Path,
) -> None:
    measure = Measure(warmup_iterations=1, measured_iterations=10_000)
    run = training(data_case(data, measure=measure, num_classes=CLASSES))
    until(lambda: run.events("tracked_stats") or run.process.poll() is not None, limit=300)

    path, offset = cut(tmp_path / "faces", FORMS[engine.name], 5)

    assert EXIT_DATA == run.process.wait(60), run.log.read_text()
    error = run.events("data_error")[-1]
    assert (str(path), 5, offset) == (error["file"], error["record"], error["offset"])


@EVERY_ENGINE
def test_a_corrupt_jpeg_ends_the_run_with_the_record(
    engine: Engine,
    data: DataSet,
    data_case: Callable[..., Path],
    training: Callable[[Path], Training],
    tmp_path: Path,
) -> None:
    """MXNet raises an error, OneFlow ends its process with exit code 1, OpenCV in PyTorch returns nothing."""
    form = FORMS[engine.name]
    path, offset = overwrite(tmp_path / "faces", form, 5, 32 if form == "recordio" else 60, bytes(200))

    run = training(data_case(data, num_classes=CLASSES))

    assert EXIT_DATA == run.process.wait(300), run.log.read_text()
    error = run.events("data_error")[-1]
    assert (str(path), 5, offset) == (error["file"], error["record"], error["offset"])
    assert "image" in error["what"] or "JPEG" in error["what"]
