"""`align.json`: what an alignment found, saved so that a report can show it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, ValidationError

from dlperf.errors import UserError
from dlperf.model import Model
from dlperf.plan.case import Case, Workload

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE_NAME: Final = "align.json"
CERTIFICATE_NAMES: Final = "align*.json"  # those of several devices too, see `modes.certificate_name`


class Tolerance(Model):
    """Largest relative differences that pass; docs/alignment.md says what each is relative to."""

    first_step: float = Field(default=1e-4, gt=0)  # embeddings, loss and update of the first step
    after_steps: float = Field(default=1e-3, gt=0)  # gradients, later losses, everything after all steps


class Worst(Model):
    """The array that differs most, and its relative difference."""

    name: str
    difference: float


class Figures(Model):
    """Relative differences of two contestants."""

    embeddings: float
    losses: tuple[float, ...]  # one a step
    gradient_norm: Worst  # after the first backward pass
    first_step: Worst  # parameters and BatchNorm statistics after one step
    parameters: Worst  # after all steps
    statistics: Worst  # after all steps


class Pair(Model):
    """Two contestants compared; without figures where one of them gave nothing to compare."""

    first: str
    second: str
    passed: bool
    figures: Figures | None = None
    first_to_differ: str | None = None  # the first array in the network's order beyond tolerance
    culprit: str | None = None  # what in the definition is computed differently, as far as that can be told
    error: str | None = None


class Contender(Model):
    """One that took part; `error` says why it has no outputs."""

    name: str  # such as `mxnet==1.9.1`, or `mxnet==1.9.1 model 1n2g` of several devices
    version: str  # as the engine itself prints it
    seconds: float | None = None
    losses: tuple[float, ...] = ()
    error: str | None = None

    @property
    def framework(self) -> str:
        """Framework and version, such as `mxnet==1.9.1`."""
        return self.name.partition(" ")[0]

    @property
    def parallelism(self) -> str | None:
        """How it was spread over several devices; None where it ran on one."""
        _, _, mode = self.name.partition(" ")
        parallelism, _, topology = mode.partition(" ")
        return None if topology in {"", "1n1g"} else parallelism.partition("-")[0]


class Certificate(Model):
    """The whole finding; `case` is what was trained, with the framework left as the first contender's."""

    schema_version: Literal[1] = 1
    dlperf_version: str
    created_at: str  # ISO 8601, UTC
    experiment: str
    experiment_hash: str  # of the experiment's workload as it was, see `workload_hash`
    case: Case
    steps: int
    tolerance: Tolerance
    contenders: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    reference: tuple[Pair, ...] = ()  # each contender against PyTorch in float64, where that ran
    verdict: str  # one line
    passed: bool

    @property
    def first_loss_difference(self) -> float | None:
        """The largest over the pairs; None where nothing was compared."""
        return max((pair.figures.losses[0] for pair in self.pairs if pair.figures), default=None)

    @property
    def loss_difference(self) -> float | None:
        """The largest over the pairs and steps; None where nothing was compared."""
        return max((max(pair.figures.losses) for pair in self.pairs if pair.figures), default=None)


def workload_hash(workload: Workload) -> str:
    """First 12 hexadecimal digits of SHA-256 over the workload's canonical JSON."""
    canonical = json.dumps(workload.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def load_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        UserError: there is none at `path`, or it cannot be read.
    """
    try:
        return Certificate.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; `dlperf align EXPERIMENT` writes a certificate"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: no certificate of `dlperf align`: {where}: {first['msg']}") from error
