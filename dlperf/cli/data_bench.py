"""`dlperf data bench`: how many images per second each engine's own reader reads, without training."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli.options import JSON, PATH, at_least, require_known
from dlperf.cli.terminal import echo, print_json, say, say_in_a_signal_handler, table
from dlperf.data.dataset import describe
from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.plan.case import ReadMode
from dlperf.wording import plural

_HEADINGS: Final = ("framework", "read", "threads", "images/s", "MiB/s", "resident before")
_EXIT_FAILED: Final = 3

_EPILOG = """\b
Examples:
  dlperf data bench faces
  dlperf data bench faces --framework mxnet,pytorch --threads 1,2,4
  dlperf data bench faces --read warm,cold --json

Exit codes: 0 every reader read, 3 one failed, 2 wrong input, 5 infrastructure, 130 Ctrl-C."""


@click.command(epilog=_EPILOG)
@click.argument("path", metavar="PATH", type=PATH)
@click.option(
    "--framework",
    "frameworks",
    metavar="NAME,...",
    help="Whose readers.  [default: every engine's that has one]",
)
@click.option("--threads", default="1", metavar="N,...", help="Threads that read.", show_default=True)
@click.option(
    "--read",
    "reads",
    default="warm",
    metavar="HOW,...",
    help="warm: from the page cache; cold: from the disk.",
    show_default=True,
)
@click.option("--batch-size", type=at_least(1), default=64, help="Images per batch.", show_default=True)
@click.option(
    "--images",
    type=at_least(1),
    help="Images to measure.  [default: all, and at most 20000, behind 8 batches]",
)
@JSON
@click.pass_context
def bench(
    ctx: click.Context,
    *,
    path: Path,
    frameworks: str | None,
    threads: str,
    reads: str,
    batch_size: int,
    images: int | None,
    as_json: bool,
) -> None:
    """Measure each engine's own reader on the data set in the folder PATH, without training.

    A reader decodes images in order into batches, as it does for training. Behind the last image it starts
    again with the first, so with `cold` a data set that is too small is partly read from memory.
    """
    # Starting runs takes a second to import, which the other commands do not need.
    from dlperf.plan.data_sets import data_set
    from dlperf.plan.sweep import DataEntry
    from dlperf.running.readers import engines_of, measured
    from dlperf.running.run_folder import whole_machine
    from dlperf.running.supervision import Interrupted, Interrupts

    readers = _readers()
    names = readers if frameworks is None else tuple(_parts(frameworks))
    require_known("--framework", "reader", names, readers)
    counts = [_count(part) for part in _parts(threads)]
    modes = cast("list[ReadMode]", _parts(reads))
    require_known("--read", "way to read", modes, ("warm", "cold"))  # reading from memory needs no reader
    describe(path)  # its messages name the folder
    rows: list[dict[str, Any]] = []
    interrupts = Interrupts(say=say_in_a_signal_handler)
    try:
        with ExitStack() as held:
            held.enter_context(interrupts.handled())
            engines = engines_of(names, held=held, say=say)
            work = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="dlperf-data-bench-")))
            held.enter_context(whole_machine(wait=True, say=say))
            for engine in engines:
                for mode in modes:
                    data = data_set(DataEntry(path=str(path.absolute()), read=mode))
                    for count in counts:
                        say(f"{engine.adapter.name}: {mode}, {plural(count, 'thread')}")
                        rows.append(
                            measured(
                                engine,
                                data,
                                work / "run",
                                threads=count,
                                batch_size=batch_size,
                                images=images,
                                interrupts=interrupts,
                            )
                        )
    except Interrupted as interrupted:
        ctx.exit(interrupted.exit_code)
    if as_json:
        print_json({"path": str(path), "batch_size": batch_size, "readers": rows})
    else:
        echo(table(_HEADINGS, map(_cells, rows), right=_HEADINGS[2:]))
    for row in rows:
        if row["error"]:
            say(f"{row['framework']}: {row['error']}")
    ctx.exit(_EXIT_FAILED if any(row["error"] for row in rows) else 0)


def _readers() -> list[str]:
    """The frameworks whose own loop reads data sets: each has a program for it."""
    programs = shipped_folder("frameworks")
    return [
        name
        for name, adapter in sorted(load_adapters().items())
        if adapter.source is None and (programs / name / "data.py").is_file()
    ]


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:  # noqa: PLR2004 - of threads
        raise UserError(f"--threads: {text!r} is no number of threads, such as 2")
    return int(text)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        f"{row['framework']}=={row['version']}",
        row["read"],
        str(row["threads"]),
        shown(row["images_per_second"], ".0f") or "failed",
        shown(row["mib_per_second"], ".1f"),
        shown(row["resident_share"], ".0%"),
    )
