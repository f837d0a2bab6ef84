"""Make the environments of our own loops for the CPU, before tests that have a time limit need them.

Those of original programs are made by the tests that have a checkout of one. An environment that cannot be
made is reported, and nothing more: the tests that need it fail with the reason.
"""

from __future__ import annotations

import sys

from dlperf.adapters.registry import load_adapters
from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable

own = [adapter for adapter in load_adapters().values() if adapter.source is None]
for adapter in own:
    for parallel in (False, True):  # for most frameworks they are the same
        try:
            ensure(adapter.environment(adapter.versions[0], "cpu", parallel=parallel))
        except EnvironmentUnavailable as error:
            sys.stderr.write(f"{error}\n")
