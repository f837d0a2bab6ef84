"""Secrets in variables and texts, replaced before anything stores or shows them."""

import re
from collections.abc import Callable, Mapping
from typing import Final

REDACTED: Final = "(redacted)"
NOT_STORED: Final = "(value not stored)"

_SECRET = re.compile(r"TOKEN|KEY|SECRET|(?<!BY)PASS|PWD|CREDENTIAL|AUTH|COOKIE|BEARER", re.IGNORECASE)
# Behind a user and a colon a password may hold anything, unescaped too.
_USERINFO = re.compile(r"(?<=://)(?:[^\s/]+|[^\s/:]+:\S+)@")
_PARAMETER = re.compile(r"(?<=[?&;])([^\s?&;=]+)=([^\s&;]+)")


def redacted_text(text: str) -> str:
    """The text without users and passwords of URLs, and without the values of their secret parameters."""
    text = _USERINFO.sub(f"{REDACTED}@", text)
    return _PARAMETER.sub(lambda found: f"{found[1]}={REDACTED if _is_secret(found[1]) else found[2]}", text)


def redacted_variables(variables: Mapping[str, str], *, is_known: Callable[[str], bool]) -> dict[str, str]:
    """The variables; values of secrets are redacted, and those of unknown names not given at all."""
    return {
        name: REDACTED if _is_secret(name) else redacted_text(value) if is_known(name) else NOT_STORED
        for name, value in variables.items()
    }


def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None or name.lower() in {"sig", "signature"}
