"""What must be installed for a version: one that the adapter knows, one from elsewhere, or the user's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dlperf.plan.origin import environment_from

if TYPE_CHECKING:
    from dlperf.adapters.base import Adapter, EnvironmentSpec
    from dlperf.plan.case import DeviceKind
    from dlperf.plan.origin import Origin


def specification_of(
    version: str,
    *,
    adapter: Adapter,
    device: DeviceKind,
    parallel: bool,
    origin: Origin | None = None,
    own_python: bool = False,
) -> EnvironmentSpec:
    """What is installed for `version`, or with `own_python` must be there already.

    Args:
        version: of a case.
        adapter: the framework's.
        device: the kind of device that it trains on.
        parallel: for cases of several devices.
        origin: where the version comes from, if not from where the adapter says.
        own_python: an interpreter of the user's own may hold versions that dlperf cannot install.

    Raises:
        ValueError: the adapter knows no environment for it, and the user names none.
    """
    if origin is not None:
        return environment_from(origin, adapter=adapter, device=device, parallel=parallel)
    try:
        return adapter.environment(version, device, parallel=parallel)
    except ValueError:
        if not own_python:
            raise
    return replace(adapter.environment(adapter.versions[0], device, parallel=parallel), version=version)
