"""What must be the same on both sides beside the case itself; `--allow NAME` lets it differ.

A module of its own, so that the command line knows the names without loading a comparison.
"""

from __future__ import annotations

from typing import Final

GUARDS: Final = (
    "experiment",
    "iterations",
    "threads",
    "memory",
    "limit",
    "seed",
    "options",
    "hardware",
    "driver",
    "alignment",
)
