"""`dlperf data`: data sets of faces made, converted, inspected and read."""

import time
from pathlib import Path
from typing import cast

import click

from dlperf.cli.data_bench import bench
from dlperf.cli.options import JSON, PATH, Choice, at_least
from dlperf.cli.terminal import echo, print_json, say, table
from dlperf.data.checking import SHOWN_FAULTS, Checked, check
from dlperf.data.convert import convert as convert_images
from dlperf.data.dataset import RECORDS, Description, Form, describe
from dlperf.data.records import Fault
from dlperf.errors import UserError
from dlperf.wording import plural

_BYTES_PER_MIB = 1 << 20
_FOLDER = click.Path(path_type=Path, file_okay=False)
_PARTS = click.option(
    "--parts", type=at_least(1), help="How many files OFRecord has: at least one per rank.  [default: 8]"
)
_SIZES_SHOWN, _DIGITS_SHOWN = 3, 12
_SAID_EACH_SECONDS = 10.0

_EPILOG = """\b
Examples:
  dlperf data make faces --images 10000 --classes 1000 --seed 1
  dlperf data convert faces_emore faces_emore_ofrecord --to ofrecord --parts 16
  dlperf data inspect faces --full
  dlperf data bench faces --read warm,cold

`dlperf docs data` describes the formats and the messages."""


@click.group(epilog=_EPILOG)
def command() -> None:
    """Make, convert and check data sets of faces, in RecordIO and OFRecord.

    A data set is a folder with train.rec, train.idx and property (RecordIO, for MXNet and PyTorch), parts
    such as ofrecord/train/part-00000 (OFRecord, for OneFlow), or both.
    """


@command.command()
@click.argument("out", metavar="OUT", type=_FOLDER)
@click.option("--images", type=at_least(1), required=True, help="How many images.")
@click.option("--classes", type=at_least(1), required=True, help="How many classes (persons).")
@click.option("--seed", type=at_least(0), default=0, help="Another seed makes other images.")
@_PARTS
@click.option(
    "--quality",
    type=at_least(1, most=100),
    default=95,
    help="Of the JPEG encoder; 95 makes 5 to 9 kB per image.",
)
def make(*, out: Path, images: int, classes: int, seed: int, parts: int | None, quality: int) -> None:
    """Make a data set of random images in OUT.

    Images are JPEG files of 112x112 pixels, the size of aligned faces. Both forms hold the same bytes in the
    same order. The same arguments make the same bytes.
    """
    from dlperf.data.make import make as make_images

    make_images(
        out, images=images, classes=classes, seed=seed, parts=parts, quality=quality, progress=_Progress()
    )
    echo(_summary(describe(out)))


@command.command()
@click.argument("source", metavar="IN", type=PATH)
@click.argument("out", metavar="OUT", type=PATH)
@click.option(
    "--to",
    type=Choice(["recordio", "ofrecord"]),
    help="The form to write.  [default: the one IN does not have]",
)
@_PARTS
@click.option("--skip-corrupt", is_flag=True, help="Leave out images with faults, and count them.")
def convert(*, source: Path, out: Path, to: str | None, parts: int | None, skip_corrupt: bool) -> None:
    """Write the data set IN in another form.

    IN and OUT are folders; OUT is new or empty. Images, labels and order stay the same. OUT appears when it
    is whole. RecordIO to RecordIO drops the records without an image that InsightFace's data sets have, on
    which MXNet's ImageRecordIter fails.
    """
    faults = _Faults() if skip_corrupt else None
    skipped = convert_images(
        source, out, to=cast("Form | None", to), parts=parts, skip=faults, progress=_Progress()
    )
    if skipped:
        say(f"skipped {plural(skipped, 'record')} with faults")
    echo(_summary(describe(out)))


@command.command()
@click.argument("path", metavar="PATH", type=PATH)
@click.option("--full", is_flag=True, help="Decode every image too.")
@click.option("--skip-corrupt", is_flag=True, help="Exit with 0 where records have faults.")
@JSON
@click.pass_context
def inspect(ctx: click.Context, *, path: Path, full: bool, skip_corrupt: bool, as_json: bool) -> None:
    """Show counts, classes, sizes and faults of a data set.

    Reads every record in the folder PATH and checks its label and its line of the index. The content is a
    hash of all labels and images in order, which is the same in both forms. Exit code 2: records have
    faults, or the forms differ.
    """
    description = describe(path, strict=not skip_corrupt)
    held = [each for each in (description.recordio, description.ofrecord) if each is not None]
    progress = _Progress()
    checked = [check(each, classes=description.classes, decode=full, progress=progress) for each in held]
    count = sum(each.faults for each in checked)
    same = len({each.content_sha256 for each in checked}) == 1
    if as_json:
        print_json(
            {
                "folder": str(path),
                "classes": description.classes,
                "forms": [_content(each) for each in checked],
                "same_content": same,
            }
        )
    else:
        echo(_title(description), "", table(_HEADINGS, map(_cells, checked), right=_HEADINGS[1:-1]))
        for each in checked:
            if each.first_faults:
                echo("", f"First faults of {each.form}:", *(f"  {fault}" for fault in each.first_faults))
    if count:
        say(
            f"{path}: {plural(count, 'record')} with faults; "
            "`dlperf data convert --skip-corrupt` leaves them out"
        )
    elif not same:
        say(f"{path}: the two forms do not hold the same images; remove one and convert the other")
    wrong = not skip_corrupt if count else not same
    ctx.exit(UserError.exit_code if wrong else 0)


def _title(description: Description) -> str:
    classes = "number of classes not known"
    if description.classes is not None:
        classes = plural(description.classes, "class", "classes")
    size = description.image_size
    images = "" if size is None else f", the first image {size[0]}x{size[1]}"
    return f"{description.folder}: {classes}{images}"


_HEADINGS = (
    "form",
    "MiB",
    "images",
    "classes seen",
    "bytes per image",
    "largest",
    "faults",
    "sizes",
    "content",
)


def _cells(checked: Checked) -> tuple[str, ...]:
    _, total, largest = checked.image_bytes
    sizes = [f"{width}x{height}" for (width, height), _ in checked.image_sizes[:_SIZES_SHOWN]]
    more = len(checked.image_sizes) - len(sizes)
    return (
        checked.form,
        f"{checked.size_bytes / _BYTES_PER_MIB:.1f}",
        str(checked.images),
        str(checked.classes_seen),
        f"{total / max(1, checked.images):.0f}",
        str(largest),
        str(checked.faults),
        " ".join(sizes) + (f" and {more} more" if more else ""),
        checked.content_sha256[:_DIGITS_SHOWN],
    )


def _content(checked: Checked) -> dict[str, object]:
    smallest, total, largest = checked.image_bytes
    return {
        "form": checked.form,
        "size_bytes": checked.size_bytes,
        "images": checked.images,
        "classes_seen": checked.classes_seen,
        "smallest_image_bytes": smallest,
        "mean_image_bytes": total / max(1, checked.images),
        "largest_image_bytes": largest,
        "image_sizes": {f"{width}x{height}": count for (width, height), count in checked.image_sizes},
        "content_sha256": checked.content_sha256,
        "faults": checked.faults,
        "first_faults": [
            {
                "file": str(fault.path),
                "record": fault.number,
                "offset": fault.offset,
                "problem": fault.problem,
            }
            for fault in checked.first_faults
        ],
    }


def _summary(description: Description) -> str:
    """One line on a data set that was written."""
    files = [RECORDS] if description.recordio is not None else []
    if description.ofrecord is not None:
        files.append(plural(len(description.ofrecord.parts), "part"))
    images = plural(description.images or 0, "image")
    return f"wrote {description.folder}: {images} in {' and '.join(files)}"


class _Faults:
    """Says the first faults on standard error."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, fault: Fault) -> None:
        self._said += 1
        if self._said <= SHOWN_FAULTS:
            say(f"skipped {fault}")


class _Progress:
    """Says now and then on standard error how many images are done."""

    def __init__(self) -> None:
        self._images = 0
        self._said = time.monotonic()

    def __call__(self, images: int) -> None:
        self._images += images
        if time.monotonic() - self._said >= _SAID_EACH_SECONDS:
            self._said = time.monotonic()
            say(f"{plural(self._images, 'image')} done")


command.add_command(bench)
