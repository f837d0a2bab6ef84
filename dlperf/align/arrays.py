"""The arrays that go into an alignment and those that come out, read lazily: a network's hold gigabytes."""

from __future__ import annotations

import math
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.lib.npyio import NpzFile

Array = np.ndarray[Any, Any]

CLASSIFIER = "classifier.weight"
_CLASSIFIER_KEY = f"parameter/{CLASSIFIER}"
# Copies of one array on several devices get the same update, up to the order of a sum.
_SAME = 1e-5


class Flaw(Exception):
    """Outputs that cannot be compared; the text says why."""


class Inputs:
    """INPUTS.npz. `kinds` maps every array's name to its kind, in the network's order."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        names, kinds = self._arrays["layout/names"], self._arrays["layout/kinds"]
        self.kinds: dict[str, str] = dict(zip(names.tolist(), kinds.tolist(), strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.close()

    def initial(self, name: str) -> Array:
        """A parameter or statistic before the first step."""
        kept: Array = self._arrays[_key(name, self.kinds)]
        return kept

    @cached_property
    def labels(self) -> Array:
        """Labels of the first step, int64 [B]."""
        kept: Array = self._arrays["labels"][0]
        return kept

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """The BatchNorm layers, in the network's order."""
        end = ".running_var"
        return tuple(name.removesuffix(end) for name in self.kinds if name.endswith(end))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The trained arrays, the classifier last."""
        return tuple(name for name, kind in self.kinds.items() if kind != "statistic")


class RankFiles:
    """The files of a contender's processes, by rank, as if one process had written them.

    Statistics are a device's own: of several devices they come as [devices, channels]. A classifier that is
    split comes whole; what is replicated is the first process's.
    """

    def __init__(self, paths: Sequence[Path], num_classes: int) -> None:
        self.files = _opened(paths)
        rows = [len(file[_CLASSIFIER_KEY]) for file in self.files if _CLASSIFIER_KEY in file.files]
        self.split = len(rows) > 1 and sum(rows) == num_classes

    def close(self) -> None:
        """Close the files; arrays that were read stay."""
        for file in self.files:
            file.close()

    def whole(self, key: str) -> Array:
        """An array of all devices; `key` without `first_step/` starts with `buffer/` or `parameter/`."""
        parts: list[Array] = [file[key] for file in self.files]
        if "buffer/" in key:
            stacked = np.concatenate([np.atleast_2d(part) for part in parts])
            return stacked[0] if len(stacked) == 1 else stacked
        if key.endswith(_CLASSIFIER_KEY) and self.split:
            return np.concatenate(parts)
        return parts[0]

    def embeddings(self, shape: tuple[int, int]) -> Array:
        """[B, E] of the global batch, rank after rank; Flaw where `shape` is another, or one is no number."""
        parts = [file["embeddings"] for file in self.files]
        whole: Array = np.concatenate(parts) if all(part.ndim == len(shape) for part in parts) else parts[0]
        if whole.shape != shape:
            raise Flaw(f"embeddings has shape {list(whole.shape)} in place of {list(shape)}")
        if not np.isfinite(whole).all():
            raise Flaw("embeddings holds values that are no numbers")
        return whole

    def losses(self, steps: int) -> tuple[float, ...]:
        """One a step; Flaw where the ranks do not have the same, or one is no number."""
        of_ranks = [file["losses"] for file in self.files]
        for losses in of_ranks:
            if losses.shape != (steps,):
                raise Flaw(f"it gave {losses.size} losses for {steps} steps")
        for step, loss in enumerate(of_ranks[0], 1):
            if not np.isfinite(loss):
                raise Flaw(f"the loss of step {step} is {loss}")
        for rank, losses in enumerate(of_ranks[1:], 1):
            if not np.allclose(losses, of_ranks[0], rtol=_SAME, atol=0):
                raise Flaw(f"process {rank} has the losses {list(losses)}, the first {list(of_ranks[0])}")
        return tuple(float(loss) for loss in of_ranks[0])

    def gradient_norm(self, name: str) -> float:
        """Of the whole parameter; Flaw where it is no number.

        That copies have the same gradients shows in the copies after the first step.
        """
        norms = [float(file[f"gradient_norm/{name}"]) for file in self.files]
        if not all(map(math.isfinite, norms)):
            raise Flaw(f"gradient_norm/{name} is {next(norm for norm in norms if not math.isfinite(norm))}")
        return math.hypot(*norms) if name == CLASSIFIER and self.split else norms[0]

    def check_replicas(self, key: str) -> None:
        """Flaw where a process's copy of a parameter is another than the first's."""
        first = self.files[0][key]
        for rank, file in enumerate(self.files[1:], 1):
            copy = file[key]
            if copy.shape != first.shape:
                raise Flaw(f"process {rank}'s copy of {key} has shape {list(copy.shape)}")
            apart = np.abs(copy.astype(np.float64) - first).max()
            if not apart <= _SAME * np.abs(first).max():  # so written, no number is no copy either
                raise Flaw(f"process {rank}'s copy of {key} is another than the first's: by {apart:.1e}")


def _opened(paths: Sequence[Path]) -> list[NpzFile]:
    """The files, all or none of them open; Flaw where one holds no arrays."""
    with ExitStack() as opened:
        files = []
        for path in paths:
            try:
                file = np.load(path)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise Flaw(f"{path.name} holds no arrays: {error}") from error
            files.append(opened.enter_context(file))
        opened.pop_all()
        return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What one contender computed, complete and finite; see `read_outputs`."""

    embeddings: Array
    losses: tuple[float, ...]
    gradient_norms: dict[str, float]
    _files: RankFiles
    _kinds: dict[str, str]

    def close(self) -> None:
        """Close the files; nothing more can be read."""
        self._files.close()

    def after_first_step(self, name: str) -> Array:
        """A parameter or statistic after one step."""
        return self._files.whole("first_step/" + _key(name, self._kinds))

    def after_all_steps(self, name: str) -> Array:
        """A parameter or statistic after the last step."""
        return self._files.whole(_key(name, self._kinds))


def _key(name: str, kinds: dict[str, str]) -> str:
    return f"buffer/{name}" if kinds[name] == "statistic" else f"parameter/{name}"


def read_outputs(paths: Sequence[Path], inputs: Inputs, *, steps: int) -> Outputs:
    """The outputs of a contender that was given `inputs`, from its processes' files by rank.

    Raises:
        Flaw: a step's loss is no number, an array is missing, superfluous, or of another shape, or the
            processes' copies of what is replicated differ.
    """
    files = RankFiles(paths, len(inputs.initial(CLASSIFIER)))
    try:
        return _checked(files, inputs, steps=steps)
    except BaseException:
        files.close()
        raise


def _checked(files: RankFiles, inputs: Inputs, *, steps: int) -> Outputs:
    for file in files.files:
        _check_names(file, inputs)
    losses = files.losses(steps)
    for name in inputs.kinds:
        _check_values(files, name, inputs)
    return Outputs(
        embeddings=files.embeddings((len(inputs.labels), inputs.initial(CLASSIFIER).shape[1])),
        losses=losses,
        gradient_norms={name: files.gradient_norm(name) for name in inputs.parameters},
        _files=files,
        _kinds=inputs.kinds,
    )


def _check_names(arrays: Any, inputs: Inputs) -> None:
    """Every array has its name, and there is no other."""
    keys = [_key(name, inputs.kinds) for name in inputs.kinds]
    expected = {*keys, *(f"first_step/{key}" for key in keys), "embeddings", "losses"}
    expected |= {f"gradient_norm/{name}" for name in inputs.parameters}
    missing = [key for key in sorted(expected) if key not in arrays.files]
    unknown = [key for key in sorted(arrays.files) if key not in expected]
    if missing:
        raise Flaw(f"{_listed(missing)} cannot be mapped: not among its outputs")
    if unknown:
        raise Flaw(f"{_listed(unknown)} cannot be mapped: the network has no such array")


def _check_values(files: RankFiles, name: str, inputs: Inputs) -> None:
    """An array has its shape, holds numbers, and is the same in every process that has a copy."""
    key, expected = _key(name, inputs.kinds), inputs.initial(name).shape
    statistic = inputs.kinds[name] == "statistic"
    for found in (f"first_step/{key}", key):
        array = files.whole(found)
        shape = array.shape[1:] if statistic and array.ndim > len(expected) else array.shape
        if shape != expected:
            raise Flaw(f"{found} has shape {list(array.shape)} in place of {list(expected)}")
        if not np.isfinite(array).all():
            raise Flaw(f"{found} holds values that are no numbers")
        if not statistic and not (name == CLASSIFIER and files.split):
            files.check_replicas(found)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004
