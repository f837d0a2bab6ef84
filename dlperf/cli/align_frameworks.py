"""The frameworks that `dlperf align` is told of: `--frameworks`, and `--python` for some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dlperf.align.entrants import Entrant
from dlperf.errors import UserError
from dlperf.plan.load import origin_of
from dlperf.plan.sweep import FrameworkEntry, FrameworkReference
from dlperf.plan.versions import specification_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.adapters.base import Adapter
    from dlperf.plan.case import DeviceKind

_REFERENCE: TypeAdapter[FrameworkEntry] = TypeAdapter(FrameworkReference)


def entrants_of(
    frameworks: str | None,
    pythons: Sequence[str],
    *,
    adapters: Mapping[str, Adapter],
    device: DeviceKind,
    parallel: bool,
) -> tuple[Entrant, ...]:
    """What the two options name; without `--frameworks` every framework there is.

    Raises:
        UserError: one of them is wrong, with the option that it stands in.
    """
    given = dict(_python(text) for text in pythons)
    asked = list(adapters) if frameworks is None else [part.strip() for part in frameworks.split(",")]
    entries = [_entry(text, given, adapters) for text in asked]
    stray = sorted(set(given) - {entry.name for entry in entries})
    if stray:
        raise UserError(f"--python: {stray[0]} is not among the frameworks to align")
    found = tuple(_entrant(entry, adapters[entry.name], device, parallel=parallel) for entry in entries)
    if len({entrant.name for entrant in found}) < len(found):
        raise UserError("--frameworks: one of them stands twice")
    return found


def _entry(text: str, pythons: Mapping[str, str], adapters: Mapping[str, Adapter]) -> FrameworkEntry:
    try:
        entry = _REFERENCE.validate_python(text, context={"frameworks": adapters})
        content: dict[str, Any] = {**entry.model_dump(), "python": pythons.get(entry.name)}
        return FrameworkEntry.model_validate(content, context={"frameworks": adapters})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        # Without the rest of the text: the URL of an index is refused where it holds what could be a secret.
        name, at, _ = text.partition(" @ ")
        raise UserError(f"--frameworks: {f'{name}: ' if at else ''}{why}") from None


def _entrant(entry: FrameworkEntry, adapter: Adapter, device: DeviceKind, *, parallel: bool) -> Entrant:
    try:
        origin = origin_of(entry, folder=Path.cwd(), adapter=adapter)
        version = origin.label if origin else entry.version or adapter.versions[0]
        spec = specification_of(
            version,
            adapter=adapter,
            device=device,
            parallel=parallel,
            origin=origin,
            own_python=entry.python is not None,
        )
    except ValueError as error:
        raise UserError(f"--frameworks: {error}") from error
    python = Path(entry.python).expanduser().absolute() if entry.python else None
    return Entrant(name=f"{entry.name}=={version}", adapter=adapter, spec=spec, python=python)


def _python(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise UserError(f"--python: {text!r} is no NAME=PATH; write mxnet=/path/to/python")
    return name, path
