"""How many examples a property is tried with. For tests only."""

from __future__ import annotations

from hypothesis import settings


def at_most(examples: int) -> int:
    """So many, or as many as the profile says where that is fewer: each takes long."""
    return min(examples, settings().max_examples)
