"""`dlperf limit` as a sweep: the same plan, the same runs, made from options in place of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from dlperf.plan.yaml_reader import parse_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlperf.plan.document import Document, Value

SHOWN = "dlperf limit"


def limit_document(values: Mapping[str, Value]) -> Document:
    """The sweep file that says the same as the options; problems in it name the command."""
    content = {name: _plain(value) for name, value in values.items()}
    return parse_document(f"# Made by {SHOWN}.\n{yaml.safe_dump(content, sort_keys=False)}", shown=SHOWN)


def _plain(value: Value) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
