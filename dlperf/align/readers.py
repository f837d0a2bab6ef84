"""The first batches of a data set through every framework's own reader, compared image by image."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dlperf.align.certificate import ReaderPair, Readers
from dlperf.align.participants import Participant
from dlperf.plan.case import DataSet
from dlperf.running.readers import Engine, ReaderError, read_alone, reading_case
from dlperf.running.supervision import Interrupts

# Of 255 levels. The pinned versions decode alike; other builds of libjpeg round differently.
LARGEST_DIFFERENCE: Final = 4
_BATCHES, _BATCH_SIZE = 32, 8
_OUTPUTS_NAME: Final = "batches.npz"

Read = tuple[NDArray[np.uint8], NDArray[np.int64]]


def compare_readers(
    participants: Sequence[Participant],
    data: DataSet,
    *,
    folder: Path,
    time_limit_seconds: float,
    interrupts: Interrupts,
    say: Callable[[str], None],
) -> Readers:
    """Let every framework of the participants read the first batches, and compare each with each.

    Interrupted after a signal; InfrastructureError where a supervisor failed.
    """
    frameworks = {participant.name.partition(" ")[0]: participant for participant in participants}
    size = min(_BATCH_SIZE, data.images)
    found: dict[str, Read | str] = {}
    for name, participant in frameworks.items():
        say(f"{name}: reading {_BATCHES * size} images of {data.name}")
        engine = Engine(
            adapter=participant.adapter,
            version=name.partition("==")[2],
            python=participant.python,
            code=participant.code,
        )
        case = reading_case(engine, data, threads=1, batch_size=size, batches=_BATCHES)
        outputs = (folder / f"{name}_reader" / _OUTPUTS_NAME).absolute()
        try:
            read_alone(
                engine,
                case,
                outputs.parent,
                arguments=(str(outputs), str(_BATCHES)),
                time_limit_seconds=time_limit_seconds,
                interrupts=interrupts,
            )
            with np.load(outputs) as arrays:
                found[name] = arrays["images"], arrays["labels"]
        except ReaderError as error:
            say(f"{name}: {error}")
            found[name] = str(error)
    pairs = tuple(reader_pair(first, second, found) for first, second in combinations(found, 2))
    return Readers(data=data, images=_BATCHES * size, largest_allowed=LARGEST_DIFFERENCE, pairs=pairs)


def reader_pair(first: str, second: str, found: dict[str, Read | str]) -> ReaderPair:
    """Two frameworks' batches, or the reasons why there are none, compared."""
    one, other = found[first], found[second]
    if isinstance(one, str) or isinstance(other, str):
        flawed, why = (first, one) if isinstance(one, str) else (second, other)
        return ReaderPair(first=first, second=second, error=f"{flawed}: {why}")
    if one[0].shape != other[0].shape:
        shapes = " and ".join(str(images.shape) for images, _ in (one, other))
        return ReaderPair(first=first, second=second, error=f"batches of {shapes}")
    differences = np.abs(one[0].astype(np.int16) - other[0].astype(np.int16))
    wrong = np.flatnonzero((one[1] != other[1]).reshape(-1))
    return ReaderPair(
        first=first,
        second=second,
        first_other_label=int(wrong[0]) if len(wrong) else None,
        largest=int(differences.max()),
        mean=float(differences.mean()),
    )
