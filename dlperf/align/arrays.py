"""The arrays that go into an alignment and those that come out, read lazily: a network's hold gigabytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]

CLASSIFIER = "classifier.weight"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """OUTPUTS.npz of one contender, complete and finite; see `read_outputs`."""

    embeddings: Array
    losses: tuple[float, ...]
    gradient_norms: dict[str, float]
    _arrays: Any
    _kinds: dict[str, str]

    def after_first_step(self, name: str) -> Array:
        """A parameter or statistic after one step."""
        kept: Array = self._arrays["first_step/" + _key(name, self._kinds)]
        return kept

    def after_all_steps(self, name: str) -> Array:
        """A parameter or statistic after the last step."""
        kept: Array = self._arrays[_key(name, self._kinds)]
        return kept


def _key(name: str, kinds: dict[str, str]) -> str:
    return f"buffer/{name}" if kinds[name] == "statistic" else f"parameter/{name}"


def read_outputs(path: Path, inputs: Inputs, *, steps: int) -> Outputs:
    """The outputs of a contender that was given `inputs`.

    Raises:
        Flaw: a step's loss is no number, or an array is missing, superfluous, or of another shape.
    """
    arrays = np.load(path)
    losses = tuple(float(loss) for loss in arrays["losses"])
    for step, loss in enumerate(losses, 1):
        if not np.isfinite(loss):
            raise Flaw(f"the loss of step {step} is {loss}")
    if len(losses) != steps:
        raise Flaw(f"it gave {len(losses)} losses for {steps} steps")
    _check_names(arrays, inputs)
    _check_values(arrays, inputs)
    return Outputs(
        embeddings=arrays["embeddings"],
        losses=losses,
        gradient_norms={name: float(arrays[f"gradient_norm/{name}"]) for name in inputs.parameters},
        _arrays=arrays,
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


def _check_values(arrays: Any, inputs: Inputs) -> None:
    """Every array has its shape and holds numbers."""
    for name in inputs.kinds:
        key = _key(name, inputs.kinds)
        expected = inputs.initial(name).shape
        for found in (f"first_step/{key}", key):
            array = arrays[found]
            if array.shape != expected:
                raise Flaw(f"{found} has shape {list(array.shape)} in place of {list(expected)}")
            if not np.isfinite(array).all():
                raise Flaw(f"{found} holds values that are no numbers")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004
