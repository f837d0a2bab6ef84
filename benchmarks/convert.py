"""How fast RecordIO is converted to OFRecord, beside `cp` of the same bytes, in turn, in one run.

    python benchmarks/convert.py [--megabytes 1000] [--rounds 5] [--folder DIR] [--profile]

The data set is made of 2000 images, again and again until it has the size. Both read from the page cache.
A conversion ends when its files are on the disk, and cp when they are in the page cache, so each is also
measured as the other is: cp with fsync of the copy, a conversion without fsync. The figures to compare
between machines are the ratios within a round, of which the median is printed. The aim: half of cp's rate.
"""

import argparse
import cProfile
import os
import pstats
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from unittest import mock

from dlperf.data.convert import convert
from dlperf.data.dataset import describe
from dlperf.data.make import make
from dlperf.data.reading import read_images
from dlperf.data.writing import recordio_writer, write_property

IMAGES, CLASSES, PARTS = 2000, 100, 8


def make_source(folder: Path, size_bytes: int) -> Path:
    make(folder / "small", images=IMAGES, classes=CLASSES, seed=1, parts=PARTS, quality=95)
    held = describe(folder / "small").recordio
    assert held is not None
    batches = cycle(list(read_images(held, classes=CLASSES)))
    target = folder / "source"
    target.mkdir()
    left = size_bytes
    with recordio_writer(target) as write:
        while left > 0:
            batch = next(batches)
            write(batch.labels, batch.contents)
            left -= sum(map(len, batch.contents))
    write_property(target, classes=CLASSES, image_size=(112, 112))
    return target


def converted(source: Path, target: Path) -> None:
    convert(source, target, to="ofrecord", parts=PARTS)


def copied(source: Path, target: Path) -> None:
    target.mkdir()
    subprocess.run(["cp", source / "train.rec", target], check=True)


def copied_synced(source: Path, target: Path) -> None:
    copied(source, target)
    with (target / "train.rec").open("rb") as stream:
        os.fsync(stream.fileno())


def converted_to_cache(source: Path, target: Path) -> None:
    with mock.patch("os.fsync"):
        converted(source, target)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "cp": copied,
    "convert, no fsync": converted_to_cache,
    "cp, fsync": copied_synced,
    "convert": converted,
}
PAIRS = (("convert, no fsync", "cp"), ("convert", "cp, fsync"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="On the disk to measure.  [default: that of /tmp]")
    parser.add_argument("--profile", action="store_true", help="Print where one conversion spends its time.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = make_source(folder, options.megabytes * 10**6)
        size = (source / "train.rec").stat().st_size
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(converted, source, folder / "target")
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)
            return
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        processor: list[float] = []
        for _ in range(options.rounds):
            for way, work in WAYS.items():
                start, used = time.perf_counter(), time.process_time()
                work(source, folder / "target")
                rates[way].append(size / (time.perf_counter() - start) / 1e6)
                if way == "convert":
                    processor.append(size / (time.process_time() - used) / 1e6)
                shutil.rmtree(folder / "target")
        for way, measured in rates.items():
            least, median, most = min(measured), statistics.median(measured), max(measured)
            print(
                f"{way:<17} MB/s: median {median:5.0f}, {least:5.0f} to {most:5.0f} ({len(measured)} rounds)"
            )
        print(f"{'convert':<17} MB per CPU second: {statistics.median(processor):5.0f}")
        for ours, theirs in PAIRS:
            ratios = [our / their for our, their in zip(rates[ours], rates[theirs], strict=True)]
            print(f"{ours} / {theirs}: median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
