"""framework==version -> interpreter: isolated Python environments, made with uv on first use.

`ensure` is the way in: it gives a ready environment for an adapter's `EnvironmentSpec`.
"""

from dlperf.environments.environment import Environment, Manifest
from dlperf.environments.make import ensure

__all__ = ["Environment", "Manifest", "ensure"]
