"""Feeds the log parsers, and the reader of our own events, with damaged logs until the time is up: `make fuzz`, or

python tests/fuzz/fuzz_logs.py --seconds 300 [--seed N]

Whatever the input, a parser either reads it or raises the documented UserError, soon, and without growing. An
input that breaks this is written to fuzz-<hash>.log in the working directory, and the exit code is 1.
"""

# ruff: noqa: BLE001, E501, S311, T201  it prints, catches everything, and needs no cryptography

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import io
import lzma
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "importing"))

from log_makers import DIALECTS, PROGRAMS, Made

from dlperf.errors import UserError
from dlperf.importing.archives import open_logs, open_stream
from dlperf.importing.case import Preamble, describe, facts_of_settings
from dlperf.importing.convert import convert, parse_log
from dlperf.importing.reader import LogReader
from dlperf.importing.writers import WRITERS
from dlperf.logs.endings import Outcome
from dlperf.logs.events import read_events, read_steps
from dlperf.results.schema import METHOD_2021, SAMPLES_PER_SECONDS, Imported
from dlperf.statistics.basic import samples_per_second

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dlperf.importing.archives import Log

LONGEST_SECONDS = 10.0
LARGEST_RESIDENT_BYTES = 1 << 30
WORDS = (
    b"Traceback (most recent call last):\n", b"CUDA out of memory", b"Killed\n", b"NCCL error", b"Speed: ", b"nan",
    b"\r", b"\r\n", b"\0", b"\x1b[31m", b"\xff\xfe", b"[1,0]<stdout>:", b"2021-13-45 99:99:99,999 ", b":::MLLOG {",
    b"9" * 5000, b"DLLL {", b"DLL ", b"CELOSS,20,1.5\n", b" samples/sec", b"it/sec", b"9" * 400, b"1e999", b"-inf", b"{" * 50,
    b"loss ", b"Epoch[", b"train: iter ", b"(" * 30, b"Training: ", b" : ", b"batch_size_per_device = ",
    b"Training: 2021-07-06 11:26:28,123-rank_id: 0\n", b"\xc2\xa0", b'{"log":"', b"Node[1] ", b"(w pid=3) ", b"node7: ", b"[3] ",
)  # fmt: skip


def a_log(generator: random.Random) -> bytes:
    """A good log of one program, or of two."""
    programs = generator.choices(list(PROGRAMS.values()), k=generator.choice((1, 1, 2)))
    lines = []
    for program in programs:
        for step in range(generator.randrange(1, 60)):
            rate = f"{generator.uniform(0, 1e5):.{program.rate_decimals}f}"
            lines.append(program.line(Made(iteration=step * 20, epoch=step // 10, rate=rate)).encode())
    return generator.choice((b"\n", b"\r\n", b"\r")).join(lines) + generator.choice((b"", b"\n"))


def flip(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.randrange(1, 30)):
        if changed:
            changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def insert(data: bytes, generator: random.Random) -> bytes:
    for _ in range(generator.randrange(1, 10)):
        place = generator.randrange(len(data) + 1)
        data = data[:place] + generator.choice(WORDS) + data[place:]
    return data


def cut(data: bytes, generator: random.Random) -> bytes:
    places = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    return generator.choice((data[: places[0]], data[places[0] :], data[: places[0]] + data[places[1] :]))


def repeat(data: bytes, generator: random.Random) -> bytes:
    places = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    times = generator.choice((2, 10, 300))
    return (data[: places[0]] + data[places[0] : places[1]] * times + data[places[1] :])[: 4 << 20]


def one_line(data: bytes, generator: random.Random) -> bytes:
    del generator
    return data.replace(b"\n", b" ")


def pack(data: bytes, generator: random.Random) -> bytes:
    way: Callable[[bytes], bytes] = generator.choice(
        (gzip.compress, bz2.compress, lzma.compress, zstandard.compress, tar, zipped)
    )
    return way(data)


def tar(data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("1n1g/r100_b64_fp32_1.log")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1n1g/r100_b64_fp32_1.log", data)
    return made.getvalue()


CASE = describe(
    "fuzz",
    facts_of_settings(
        {"framework": "oneflow", "version": "1", "experiment": "r100_emore", "parallelism": "data",
         "topology": "2n8g", "device": "cuda", "batch_size_per_device": "64", "precision": "fp32"},
        "fuzz",
    ),
    folder=Path(),
).case  # fmt: skip
MUTATIONS = (flip, flip, insert, insert, cut, repeat, one_line, pack)


def logs_in(data: bytes) -> Iterator[Log]:
    """As `dlperf parse` opens them: a zip archive must be a file."""
    if not data.startswith(b"PK"):
        yield from open_stream("fuzz", io.BytesIO(data))
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield from open_logs(Path(file.name))


def feed(data: bytes, generator: random.Random) -> None:
    """Parse it as `dlperf parse` would, in all formats, and read events of ours from it."""
    for step in read_steps(read_events(data.decode(errors="replace").splitlines())):
        samples_per_second([step.samples], [step.seconds])
    preamble = Preamble()
    outcome = generator.choice((None, Outcome.of_exit(generator.randrange(-20, 260))))
    for log in logs_in(data):
        log.chunk_bytes = generator.choice((512, 4096, 1 << 20))
        reader = LogReader(log, dialects=list(DIALECTS.values()), outcome=outcome, unrecognised=preamble.feed)
        writers = [make(io.StringIO()) for make in WRITERS.values()]
        for writer in writers:
            writer.begin(file="fuzz")
        for batch in reader:
            for writer in writers:
                writer.write(batch, dialect=reader.dialect or next(iter(DIALECTS.values())))
        for writer in writers:
            writer.end(failure=reader.failure)
        reader.require_records()
    for log in logs_in(data):
        convert_all(log, method=generator.choice((SAMPLES_PER_SECONDS, METHOD_2021)))


def convert_all(log: Log, *, method: str) -> None:
    """Convert it as `dlperf import` would; every step that is written can be read back."""
    parsed = parse_log(log, dialect="auto")
    for run in range(len(parsed.runs)):
        origin = Imported(
            source="fuzz", sha256="0", log="logs/imported.log", dialect=parsed.dialect.name, method=method, run=run,
            warmup_iterations=20,
        )  # fmt: skip
        lines = list(convert(parsed, case=CASE, imported=origin))
        written = sum('"key": "tracked_stats"' in line for line in lines)
        assert written == len(read_steps(read_events(lines)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="first seed; each input has one of its own")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"first seed {seed}")
    end = time.monotonic() + arguments.seconds
    inputs = refused = 0
    while time.monotonic() < end:
        generator = random.Random(seed + inputs)
        data = a_log(generator)
        for mutate in generator.choices(MUTATIONS, k=generator.randrange(4)):
            data = mutate(data, generator)
        began = time.process_time()
        try:
            feed(data, generator)
        except UserError:
            refused += 1
        except Exception:
            return broken(data, seed + inputs, traceback.format_exc())
        took = time.process_time() - began  # others may use the machine
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if took > LONGEST_SECONDS or resident > LARGEST_RESIDENT_BYTES:
            return broken(data, seed + inputs, f"took {took:.1f} s, {resident >> 20} MiB resident\n")
        inputs += 1
    print(
        f"{inputs} inputs, {refused} refused with a reason, {resident >> 20} MiB resident at most: nothing broken"
    )
    return 0


def broken(data: bytes, seed: int, why: str) -> int:
    path = Path(f"fuzz-{hashlib.sha256(data).hexdigest()[:12]}.log")
    path.write_bytes(data)
    print(f"seed {seed}: {path}\n{why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
