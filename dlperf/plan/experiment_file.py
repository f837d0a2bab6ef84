"""What an experiment file may hold: a workload, and how many classes its data set has."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from dlperf.plan.case import Workload


class ExperimentFile(Workload):
    """A workload file. The experiment's name is the file's, so `experiment` is no key of it."""

    num_classes: PositiveInt  # of the data set; a sweep may take another number
    notes: str = ""

    @property
    def workload(self) -> Workload:
        """What a case carries of it."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in Workload.model_fields}
        return Workload(**kept)
