"""Which engine the tests of a folder of tests/frameworks run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A framework as its tests start it; `environment` is what the adapter sets besides threads."""

    name: str
    version: str
    threads: int
    environment: dict[str, str] = field(default_factory=dict)
