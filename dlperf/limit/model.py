"""The memory model's answer: the size of a case's tensors, and where its limit may be.

The arithmetic needs the networks' tables, which belong to the training programs, so the program
frameworks/common/memory.py does it, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pydantic import ValidationError

from dlperf.errors import InfrastructureError
from dlperf.files import shipped_root
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.results.limits import MemoryPart

_SECONDS = 120


class ModelAnswer(Model):
    """The parts of the case as it stands, and the largest value of its search whose parts fit the budget."""

    parts: tuple[MemoryPart, ...]
    largest: int | None


class _Request(Model):
    case: dict[str, object]
    search: dict[str, object] | None
    budget: int | None


def ask_model(case: Case, *, budget: int | None) -> ModelAnswer:
    """The memory model of a case; `largest` is None without a search, a budget, or a value that fits.

    Raises:
        InfrastructureError: the program fails.
    """
    request = _Request(
        case=case.model_dump(mode="json"),
        search=case.search.model_dump(mode="json") if case.search is not None else None,
        budget=budget,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "frameworks.common.memory"],
            cwd=shipped_root(),
            env={**os.environ, "PYTHONPATH": str(shipped_root())},
            input=request.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return ModelAnswer.model_validate_json(done.stdout)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise InfrastructureError(f"the memory model failed: {last}") from error
    except (OSError, subprocess.SubprocessError, ValidationError) as error:
        raise InfrastructureError(f"the memory model failed: {error}") from error
