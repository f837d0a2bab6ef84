"""Translations of the report's own sentences: `templates/<language>.json`, the English message as key.

What stands in a YAML file or a log is data and is never translated.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from dlperf.files import shipped_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

Language = Literal["en", "zh"]

ENGLISH: Final = "en"
LANGUAGES: Final[Mapping[Language, str]] = {ENGLISH: "en", "zh": "zh-Hans"}  # BCP 47 tags for HTML


def messages(language: Language) -> Mapping[str, str]:
    """Translation by English message; empty for English."""
    if language == ENGLISH:
        return MappingProxyType({})
    path = shipped_folder("templates") / f"{language}.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return MappingProxyType(found)
