"""The arrays that go into an alignment and those that come out, read lazily: a network's hold gigabytes."""

import math
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.lib.npyio import NpzFile

from dlperf.wording import plural

Array = np.ndarray[Any, Any]

CLASSIFIER: Final = "classifier.weight"
STATISTIC: Final = "statistic"  # the kind of a BatchNorm's running mean or variance
_CLASSIFIER_KEY: Final = f"parameter/{CLASSIFIER}"
# Copies of one array on several devices get the same update, up to the order of a sum.
_COPY_TOLERANCE: Final = 1e-5


class Flaw(Exception):
    """A participant's outputs are missing or cannot be compared; the text says why."""


class Inputs:
    """INPUTS.npz. `kinds` maps every array's name to its kind, in the network's order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = np.load(path)
        names, kinds = self._arrays["layout/names"], self._arrays["layout/kinds"]
        self.kinds: dict[str, str] = dict(zip(names.tolist(), kinds.tolist(), strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.close()

    def initial(self, name: str) -> Array:
        """A parameter or statistic before the first step."""
        array: Array = self._arrays[_key(name, self.kinds)]
        return array

    @cached_property
    def labels(self) -> Array:
        """Labels of the first step, int64 [B]."""
        labels: Array = self._arrays["labels"][0]
        return labels

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The trained arrays, the classifier last."""
        return tuple(name for name, kind in self.kinds.items() if kind != STATISTIC)

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """The running statistics of every BatchNorm, in the network's order."""
        return tuple(name for name, kind in self.kinds.items() if kind == STATISTIC)


class Outputs:
    """What a participant computed, from its processes' files by rank, as if one process had written them.

    `embeddings` are float32 [B, E] of the first forward pass, rank after rank, `losses` one per step,
    `gradient_norms` of every parameter after the first backward pass. Statistics of several devices, each of
    which has its own, are [devices, channels]; the rows of a split classifier are joined.
    """

    def __init__(self, paths: Sequence[Path], inputs: Inputs, *, steps: int) -> None:
        """Check the files; Flaw where an array is missing, misshapen or not finite, or copies differ."""
        self._kinds = inputs.kinds
        with ExitStack() as opened:
            self._files = [opened.enter_context(_open(path)) for path in paths]
            rows = [len(file[_CLASSIFIER_KEY]) for file in self._files if _CLASSIFIER_KEY in file.files]
            self._split = len(rows) > 1 and sum(rows) == len(inputs.initial(CLASSIFIER))
            for file in self._files:
                _check_names(file, inputs)
            self.losses = self._read_losses(steps)
            for name in inputs.kinds:
                self._check_array(name, inputs.initial(name).shape)
            self.embeddings = self._read_embeddings((len(inputs.labels), inputs.initial(CLASSIFIER).shape[1]))
            self.gradient_norms = {name: self._read_gradient_norm(name) for name in inputs.parameters}
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the files; nothing more can be read."""
        self._opened.close()

    def after_first_step(self, name: str) -> Array:
        """A parameter or statistic after one step."""
        return self._whole("first_step/" + _key(name, self._kinds))

    def after_all_steps(self, name: str) -> Array:
        """A parameter or statistic after the last step."""
        return self._whole(_key(name, self._kinds))

    def _whole(self, key: str) -> Array:
        """An array of all devices."""
        parts: list[Array] = [file[key] for file in self._files]
        if "buffer/" in key:
            stacked = np.concatenate([np.atleast_2d(part) for part in parts])
            return stacked[0] if len(stacked) == 1 else stacked
        return np.concatenate(parts) if key.endswith(_CLASSIFIER_KEY) and self._split else parts[0]

    def _read_embeddings(self, shape: tuple[int, int]) -> Array:
        parts = [file["embeddings"] for file in self._files]
        whole: Array = np.concatenate(parts) if all(part.ndim == len(shape) for part in parts) else parts[0]
        _check_values("embeddings", whole, whole.shape, shape)
        return whole

    def _read_losses(self, steps: int) -> tuple[float, ...]:
        of_ranks = [file["losses"] for file in self._files]
        for losses in of_ranks:
            if losses.shape != (steps,):
                raise Flaw(f"it wrote {plural(losses.size, 'loss', 'losses')} for {plural(steps, 'step')}")
        for step, loss in enumerate(of_ranks[0], 1):
            if not np.isfinite(loss):
                raise Flaw(f"the loss of step {step} is {loss}")
        for rank, losses in enumerate(of_ranks[1:], 1):
            if not np.allclose(losses, of_ranks[0], rtol=_COPY_TOLERANCE, atol=0):
                raise Flaw(f"process {rank} has the losses {list(losses)}, process 0 {list(of_ranks[0])}")
        return tuple(float(loss) for loss in of_ranks[0])

    def _read_gradient_norm(self, name: str) -> float:
        """Of the whole parameter. Copies with other gradients show as other copies after the first step."""
        norms = [float(file[f"gradient_norm/{name}"]) for file in self._files]
        if not all(map(math.isfinite, norms)):
            raise Flaw(f"gradient_norm/{name} is {next(norm for norm in norms if not math.isfinite(norm))}")
        return math.hypot(*norms) if name == CLASSIFIER and self._split else norms[0]

    def _check_array(self, name: str, expected: tuple[int, ...]) -> None:
        """An array has its shape, is finite, and is the same in every process that has a copy."""
        statistic = self._kinds[name] == STATISTIC
        for key in (f"first_step/{_key(name, self._kinds)}", _key(name, self._kinds)):
            array = self._whole(key)
            of_device = array.shape[1:] if statistic and array.ndim > len(expected) else array.shape
            _check_values(key, array, of_device, expected)
            if not statistic and not (name == CLASSIFIER and self._split):
                self._check_copies(key)

    def _check_copies(self, key: str) -> None:
        first = self._files[0][key]
        for rank, file in enumerate(self._files[1:], 1):
            copy = file[key]
            if copy.shape != first.shape:
                raise Flaw(f"process {rank}'s copy of {key} has shape {list(copy.shape)}")
            apart = np.abs(copy.astype(np.float64) - first).max()
            if not apart <= _COPY_TOLERANCE * np.abs(first).max():  # written so that NaN fails, too
                raise Flaw(f"process {rank}'s copy of {key} differs from process 0's by {apart:.1e}")


def _open(path: Path) -> NpzFile:
    try:
        file: NpzFile = np.load(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Flaw(f"{path.name} holds no arrays: {error}") from error
    return file


def _key(name: str, kinds: dict[str, str]) -> str:
    return f"buffer/{name}" if kinds[name] == STATISTIC else f"parameter/{name}"


def _check_names(file: NpzFile, inputs: Inputs) -> None:
    """Every array is there, and no other."""
    keys = [_key(name, inputs.kinds) for name in inputs.kinds]
    expected = {*keys, *(f"first_step/{key}" for key in keys), "embeddings", "losses"}
    expected |= {f"gradient_norm/{name}" for name in inputs.parameters}
    missing, unknown = sorted(expected - {*file.files}), sorted({*file.files} - expected)
    if missing:
        raise Flaw(f"its outputs lack {_listed(missing)}")
    if unknown:
        raise Flaw(f"its outputs hold {_listed(unknown)}, which the network does not have")


def _check_values(key: str, array: Array, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise Flaw(f"{key} has shape {list(array.shape)}, expected {list(expected)}")
    if not np.isfinite(array).all():
        raise Flaw(f"{key} holds values that are not finite")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004
