"""`dlperf data`: what is made, converted and inspected, and what a wrong folder is answered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from data_sets import images_of, write_insightface, write_part, write_recordio
from processes import until

from dlperf.cli import main
from dlperf.data.dataset import describe
from dlperf.data.make import make

DLPERF = [sys.executable, "-m", "dlperf"]


def dlperf(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)], catch_exceptions=False)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "faces"
    make(folder, images=50, classes=20, seed=3, parts=3, quality=95)
    return folder


def test_both_forms_hold_the_same_images_of_all_classes(faces: Path) -> None:
    images = images_of(faces, form="recordio")
    assert images == images_of(faces, form="ofrecord")
    labels = [label for label, _ in images]
    assert sorted([*range(20), *range(20), *range(10)]) == sorted(labels)
    assert labels != sorted(labels)
    assert len({content for _, content in images}) == 50
    assert all(3_000 < len(content) < 12_000 for _, content in images)


def test_the_same_arguments_make_the_same_bytes(faces: Path, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    make(tmp_path / "again", images=50, classes=20, seed=3, parts=3, quality=95)
    make(tmp_path / "other", images=50, classes=20, seed=4, parts=3, quality=95)
    assert files(faces) == files(tmp_path / "again")
    assert images_of(faces) != images_of(tmp_path / "other")


def test_more_classes_than_images_are_spread(tmp_path: Path) -> None:
    make(tmp_path / "few", images=10, classes=1_000_000, seed=1, parts=None, quality=50)
    labels = {label for label, _ in images_of(tmp_path / "few")}
    assert 10 == len(labels)
    assert max(labels) > 100_000
    assert (1_000_000, (112, 112), 10) == (
        (held := describe(tmp_path / "few")).classes, held.image_size, held.images,
    )  # fmt: skip


def test_a_set_is_described_from_its_indexes(faces: Path) -> None:
    held = describe(faces)
    assert (20, (112, 112), 50, ("recordio", "ofrecord")) == (
        held.classes, held.image_size, held.images, held.forms,
    )  # fmt: skip
    assert held.recordio is not None
    assert held.ofrecord is not None
    assert held.recordio.persons is None
    assert ["part-00000", "part-00001", "part-00002"] == [part.path.name for part in held.ofrecord.parts]
    assert [17, 17, 16] == [part.images for part in held.ofrecord.parts]
    assert (5, 50) == (held.ofrecord.digits, held.ofrecord.images)


def test_the_hash_of_an_index_follows_index_property_and_size(tmp_path: Path) -> None:
    def index_hash() -> str:
        held = describe(tmp_path).recordio
        assert held is not None
        return held.index_sha256

    write_recordio(tmp_path, [0, 1], [b"aaaa", b"bbbb"])
    hashes = {index_hash()}
    write_recordio(tmp_path, [0, 1], [b"aaaa", b"bbbbb"])  # the same index, a longer file
    hashes.add(index_hash())
    write_recordio(tmp_path, [0, 1], [b"aaaaa", b"bbbb"])  # another index
    hashes.add(index_hash())
    (tmp_path / "property").write_text("11,112,112")
    hashes.add(index_hash())
    assert 4 == len(hashes)


def test_a_set_of_insightface_is_described(tmp_path: Path) -> None:
    held = describe(write_insightface(tmp_path, [[b"a", b"b"], [b"c"]]))
    assert held.recordio is not None
    assert (3, 2, 2) == (held.images, held.recordio.persons, held.classes)


def test_parts_are_found_wherever_others_write_them(tmp_path: Path) -> None:
    for number, place in enumerate(("ofrecord/train", "ofrecord", "train", ".")):
        folder = tmp_path / str(number) / place
        folder.mkdir(parents=True)
        (write_part(folder, [0], [b"a"]) / "part-00000").rename(folder / "part-0")
        (write_part(folder, [1], [b"b"]) / "part-00000").rename(folder / "part-1")
        held = describe(tmp_path / str(number)).ofrecord
        assert held is not None
        assert [folder / "part-0", folder / "part-1"] == [part.path for part in held.parts]
        assert (-1, None, None) == (held.digits, held.images, held.parts[0].images)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def pipe(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def folder_instead(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def longer(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.write(b"more")

    return change


PARTS = "ofrecord/train"


COPY = "copy it, or make it with MXNet's rec2idx.py"
NO_RECORDIO = b"nothing of RecordIO"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("train.idx"), "/train.idx is missing: readers find the images by it; " + COPY),
        (remove("train.rec"), "/train.rec is missing, but train.idx is there; copy the data set again"),
        (write("train.idx", b""), "/train.idx is empty: it names no record of train.rec"),
        (write("train.rec", b""), "/train.rec is empty: it holds no record"),
        (write("train.rec", NO_RECORDIO), "/train.rec: record 0 at byte 0: wrong magic number 68746f6e"),
        (pipe("train.rec"), "/train.rec: not a regular file"),
        (pipe("train.idx"), "/train.idx: not a regular file"),
        (pipe("property"), "/property: not a regular file"),
        (folder_instead("train.rec"), "/train.rec: not a regular file"),
        (write("property", b"many"), "/property: must be classes,height,width, such as 85742,112,112"),
        (write("property", b"\xff" * 100), "/property: must be classes,height,width, such as 85742,112,112"),
    ],
)  # fmt: skip
def test_a_recordio_folder_that_is_wrong(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_recordio(tmp_path, [0, 1], [b"aaaa", b"bbbb"])
    change(tmp_path)
    result = dlperf("inspect", tmp_path)
    assert (2, f"dlperf: {tmp_path}{message}\n") == (result.exit_code, result.stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("part-00001"), ": part-00001 is missing, but part-00002 is there; copy the data set again"),
        (remove("part-00002"), "/part-00002: 0 bytes, but index.json says 61; copy the data set again"),
        (longer("part-00001"), "/part-00001: 65 bytes, but index.json says 61; copy the data set again"),
        (write("part-00001", b""), "/part-00001 is empty: it holds no record"),
        (write("part-1", b"x"), ": part-00001 and part-1 have the same number"),
        (write("index.json", b"{"), "/index.json: no index of parts: not JSON; remove it"),
        (pipe("part-00001"), "/part-00001: not a regular file"),
        (folder_instead("part-00001"), "/part-00001: not a regular file"),
    ],
)  # fmt: skip
def test_a_folder_of_parts_that_is_wrong(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_recordio(tmp_path / "in", [0, 1, 2], [b"photograph of 20 byt"] * 3)
    assert 0 == dlperf("convert", tmp_path / "in", tmp_path / "out", "--parts", 3).exit_code
    change(tmp_path / "out" / PARTS)
    result = dlperf("inspect", tmp_path / "out")
    assert (2, f"dlperf: {tmp_path}/out/{PARTS}{message}\n") == (result.exit_code, result.stderr)


def test_no_data_set(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", "is not a folder; a data set is a folder with train.rec or part-00000"),
        (tmp_path, "holds no data set: neither train.rec nor part-00000"),
    ):
        result = dlperf("inspect", path)
        assert (2, f"dlperf: {path} {message}\n") == (result.exit_code, result.stderr)


def test_recordio_to_parts_and_back_is_the_same_byte_for_byte(faces: Path, tmp_path: Path) -> None:
    there = dlperf("convert", faces, tmp_path / "parts", "--to", "ofrecord", "--parts", 7)
    assert (0, f"wrote {tmp_path}/parts: 50 images in 7 parts\n") == (there.exit_code, there.stdout)
    back = dlperf("convert", tmp_path / "parts", tmp_path / "back")
    assert (0, f"wrote {tmp_path}/back: 50 images in train.rec\n") == (back.exit_code, back.stdout)
    for name in ("train.rec", "train.idx", "property"):
        assert (faces / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    again = dlperf("convert", tmp_path / "parts", tmp_path / "three", "--to", "ofrecord", "--parts", 3)
    assert 0 == again.exit_code
    for path in sorted((faces / PARTS).iterdir()):
        assert path.read_bytes() == (tmp_path / "three" / PARTS / path.name).read_bytes()


def test_a_set_of_insightface_is_rewritten_with_images_alone(tmp_path: Path) -> None:
    source = write_insightface(tmp_path / "in", [[b"a", b"b"], [b"c"]])
    assert 0 == dlperf("convert", source, tmp_path / "out", "--to", "recordio").exit_code
    assert images_of(source) == images_of(tmp_path / "out")
    held = describe(tmp_path / "out").recordio
    assert held is not None
    assert (3, None) == (held.images, held.persons)


def test_classes_are_counted_where_nothing_says_them(tmp_path: Path) -> None:
    write_part(tmp_path / "in", [4, 6], [b"a", b"b"])
    assert 0 == dlperf("convert", tmp_path / "in", tmp_path / "out").exit_code
    assert 7 == describe(tmp_path / "out").classes


def test_labels_that_the_other_form_cannot_hold_are_refused(tmp_path: Path) -> None:
    write_part(tmp_path / "in", [2**24, 2**24 + 1], [b"a", b"b"])
    result = dlperf("convert", tmp_path / "in", tmp_path / "out")
    message = "label 16777217 does not fit into RecordIO, whose labels are float32: the largest is 16777216"
    assert (2, f"dlperf: {message}\n") == (result.exit_code, result.stderr)
    write_recordio(tmp_path / "large", [2.0**31], [b"a"], classes=None)
    result = dlperf("convert", tmp_path / "large", tmp_path / "out")
    message = f"{tmp_path}/large/train.rec: record 0 at byte 0: label 2147483648 is out of range"
    assert (2, f"dlperf: {message}\n") == (result.exit_code, result.stderr)


def test_a_disk_that_is_full_ends_a_conversion_in_one_line(faces: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a write ends early, and the next one fails."""
    done = subprocess.run(
        [
            "prlimit",
            "--fsize=100000",
            *DLPERF,
            "data",
            "convert",
            faces,
            tmp_path / "out",
            "--to",
            "recordio",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (2, f"dlperf: {tmp_path}/out: File too large\n") == (done.returncode, done.stderr)
    assert [] == names_in(tmp_path)


def spoiled(folder: Path) -> Path:
    """A set whose second record of four is damaged."""
    write_recordio(folder, [0, 1, 2, 3], [b"image"] * 4)
    with (folder / "train.rec").open("r+b") as stream:
        stream.seek(40)
        stream.write(b"no")
    return folder


def test_a_damaged_record_ends_a_conversion_or_is_skipped_and_counted(tmp_path: Path) -> None:
    source = spoiled(tmp_path / "in")
    fault = f"{source}/train.rec: record 1 at byte 40: wrong magic number ced76f6e"
    result = dlperf("convert", source, tmp_path / "out")
    assert (2, f"dlperf: {fault}\n") == (result.exit_code, result.stderr)
    assert ["in"] == names_in(tmp_path)
    result = dlperf("convert", source, tmp_path / "out", "--parts", 2, "--skip-corrupt")
    assert (0, f"skipped {fault}\nskipped 1 record with faults\n") == (result.exit_code, result.stderr)
    assert [(0, b"image"), (2, b"image"), (3, b"image")] == images_of(tmp_path / "out")


def test_parts_that_would_stay_empty_are_refused(tmp_path: Path) -> None:
    source = spoiled(tmp_path / "in")
    for parts, message in (
        (5, "4 images cannot fill 5 parts; choose fewer with --parts"),
        (4, "3 images left cannot fill 4 parts; choose fewer with --parts"),
    ):
        result = dlperf("convert", source, tmp_path / "out", "--parts", parts, "--skip-corrupt")
        assert (2, f"dlperf: {message}") == (result.exit_code, result.stderr.splitlines()[-1])
        assert ["in"] == names_in(tmp_path)


def test_a_folder_that_exists_is_never_written_to(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("full", f"dlperf: {tmp_path}/full is not empty; name a new folder\n"),
        ("file", f"dlperf: {tmp_path}/file exists and is no folder; name a new one\n"),
        ("empty", ""),
        ("some/new/folder", ""),
    ):
        result = dlperf("convert", faces, tmp_path / name, "--to", "recordio")
        assert message == result.stderr
        assert (2 if message else 0) == result.exit_code
    assert ["file"] == names_in(tmp_path / "full")


def test_a_choice_is_needed_between_two_forms_and_parts_need_ofrecord(faces: Path, tmp_path: Path) -> None:
    result = dlperf("convert", faces, tmp_path / "out")
    message = f"dlperf: {faces} has both forms; choose with --to recordio or --to ofrecord\n"
    assert (2, message) == (result.exit_code, result.stderr)
    result = dlperf("convert", faces, tmp_path / "out", "--to", "recordio", "--parts", 2)
    message = "dlperf: --parts is for --to ofrecord; a RecordIO data set is one file\n"
    assert (2, message) == (result.exit_code, result.stderr)


def test_inspect_counts_and_finds_what_cannot_be_decoded(tmp_path: Path) -> None:
    make(tmp_path / "in", images=4, classes=2, seed=1, parts=2, quality=95)
    contents = [content for _, content in images_of(tmp_path / "in")]
    contents[2] = contents[2][:1000]
    contents[3] = b"no image"
    write_recordio(tmp_path / "out", [0, 1, 1, 0], contents, classes=2)
    result = dlperf("inspect", tmp_path / "out", "--json")
    assert 0 == result.exit_code
    assert 4 == json.loads(result.stdout)["forms"][0]["images"]
    result = dlperf("inspect", tmp_path / "out", "--json", "--full")
    assert 2 == result.exit_code
    (form,) = json.loads(result.stdout)["forms"]
    assert (2, 2, 2, {"112x112": 2}) == (
        form["images"], form["classes_seen"], form["faults"], form["image_sizes"],
    )  # fmt: skip
    truncated, unknown = form["first_faults"]
    assert (2, 3) == (truncated["record"], unknown["record"])
    assert "the image cannot be decoded: image file is truncated" in truncated["problem"]
    assert "no image of a known format" == unknown["problem"]
    assert 0 == dlperf("inspect", tmp_path / "out", "--full", "--skip-corrupt").exit_code


def test_inspect_shows_a_table_of_both_forms(faces: Path) -> None:
    result = dlperf("inspect", faces, "--full")
    assert 0 == result.exit_code
    title, _, headings, first, second = result.stdout.splitlines()
    assert f"{faces}: 20 classes, the first image 112x112" == title
    words = "form MiB images classes seen bytes per image largest faults sizes content"
    assert words.split() == headings.split()
    assert ["recordio", "50", "20", "0", "112x112"] == [first.split()[place] for place in (0, 2, 3, 6, 7)]
    assert first.split()[-1] == second.split()[-1]


def test_inspect_finds_that_the_forms_differ(tmp_path: Path) -> None:
    write_recordio(tmp_path, [0, 1], [b"a", b"b"])
    write_part(tmp_path, [0, 1], [b"a", b"c"])
    result = dlperf("inspect", tmp_path)
    message = "the two forms do not hold the same images; remove one and convert the other"
    assert (2, f"{tmp_path}: {message}\n") == (result.exit_code, result.stderr)


def test_a_fault_in_one_form_can_be_skipped(tmp_path: Path) -> None:
    write_part(spoiled(tmp_path / "in"), [0, 1, 2, 3], [b"image"] * 4)
    assert 2 == dlperf("inspect", tmp_path / "in").exit_code
    result = dlperf("inspect", tmp_path / "in", "--skip-corrupt", "--json")
    assert 0 == result.exit_code
    content = json.loads(result.stdout)
    assert [3, 4] == [form["images"] for form in content["forms"]]
    assert not content["same_content"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", 3, "--classes", 1, "--parts", 4), "3 images cannot fill 4 parts"),
        (("--images", 1, "--classes", 2**24 + 1), "16777217 classes, but RecordIO's labels"),
        (("--images", 10**12, "--classes", 1), "GiB, its disk has "),
        (("--images", 0, "--classes", 1), "Invalid value for '--images'"),
        (("--images", 1, "--classes", 1, "--quality", 101), "Invalid value for '--quality'"),
    ],
)  # fmt: skip
def test_what_cannot_be_made(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    result = dlperf("make", tmp_path / "out", *arguments)
    assert 2 == result.exit_code
    assert message in result.stderr
    assert [] == names_in(tmp_path)


def large(folder: Path, images: int) -> Path:
    """Images of 8 kB that are no images, which is all that a conversion needs."""
    content = bytes(range(256)) * 32
    return write_recordio(folder, [0] * images, [content] * images)


# `dlperf` with a conversion that takes a second for each batch of images that it writes.
SLOW = """
import sys, time
from dlperf.cli import main
from dlperf.data import convert
write_all = convert._write_all

def write_slowly(batches, write, progress):
    return write_all(batches, lambda *batch: (write(*batch), time.sleep(1)), progress)

convert._write_all = write_slowly
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_conversion_that_is_interrupted_leaves_nothing_under_its_name(
    number: signal.Signals, tmp_path: Path
) -> None:
    source = large(tmp_path / "in", 2_000)
    command = [sys.executable, "-c", SLOW, "data", "convert", source, tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: list(tmp_path.glob(".out.unfinished-*/ofrecord/train/part-00000")))
        process.send_signal(number)
        _, error = process.communicate()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "out" not in left
    if number is signal.SIGINT:
        assert (130, "", ["in"]) == (process.returncode, error, left)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    def peak_bytes(*arguments: object) -> int:
        process = subprocess.Popen([*DLPERF, "data", *map(str, arguments)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert 0 == process.returncode
        return usage.ru_maxrss * 1024

    few, many = large(tmp_path / "few", 2_000), large(tmp_path / "many", 15_000)
    for arguments in (("convert", "{}", "{}.out"), ("inspect", "{}")):
        peaks = [peak_bytes(*(argument.format(folder) for argument in arguments)) for folder in (few, many)]
        assert peaks[1] < peaks[0] + (20 << 20)
