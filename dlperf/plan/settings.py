"""Values given on the command line in place of the sweep file's: `-S key=value` and `-P axis=a,b`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.plan.yaml_reader import parse_scalar

if TYPE_CHECKING:
    from dlperf.plan.document import Document, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value laid over the sweep file; problems about it name `label`."""

    path: tuple[str, ...]
    value: Value
    label: str


def value_setting(text: str) -> Setting:
    """Read `measure.repeats=3`; UserError where there is no key or no `=`."""
    key, value = _split("-S", text)
    return Setting(path=tuple(key.split(".")), value=parse_scalar(value), label=f"-S {text}")


def axis_setting(text: str) -> Setting:
    """Read `topology=1n1g,1n2g`; UserError where there is no key or no `=`."""
    key, values = _split("-P", text)
    listed = tuple(parse_scalar(value.strip()) for value in values.split(","))
    return Setting(path=(key,), value=listed, label=f"-P {text}")


def apply_settings(document: Document, settings: tuple[Setting, ...]) -> Document:
    """The document with the settings laid over it, the last one on top."""
    for setting in settings:
        document = document.with_value(setting.path, setting.value, label=setting.label)
    return document


def _split(option: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key.strip() or not separator:
        raise UserError(f"{option} {text}: write key=value, such as {option} batch_size_per_device=64")
    return key.strip(), value.strip()
