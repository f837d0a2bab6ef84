"""Inspect an interpreter: its version, its packages, and whether its framework works."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments.processes import run_python
from dlperf.errors import EnvironmentUnavailable

_PROBE_SECONDS = 120
# The first import of a framework reads gigabytes from a cold disk, perhaps under other load.
_IMPORT_SECONDS = 900

# For Python 3.8 and newer.
PROBE = """
import json, platform, re, sys, sysconfig
from importlib.metadata import distributions
packages = {}
for distribution in distributions():
    name = distribution.metadata["Name"]
    if name:  # the first on sys.path is the one that is imported
        packages.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
print(json.dumps({
    "python_version": platform.python_version(), "prefix": sys.prefix,
    "site_packages": sysconfig.get_path("purelib"), "packages": dict(sorted(packages.items())),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A description of an interpreter; `packages` maps normalised names to versions."""

    python_version: str
    prefix: Path
    site_packages: Path
    packages: dict[str, str]


def inspect(python: Path, *, hold: Sequence[int] = ()) -> Interpreter:
    """Ask `python` what it is and what is installed.

    Raises:
        EnvironmentUnavailable: it does not start, or is older than Python 3.8.
    """
    try:
        done = run_python(python, PROBE, timeout_seconds=_PROBE_SECONDS, hold=hold)
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        reason = _last_line(done.stderr) or f"it ended with {_ending(done.returncode)}"
        raise EnvironmentUnavailable(
            f"{python} is not a working Python 3.8 or newer: {reason}; give the path of one"
        ) from None
    return interpreter_from(answer)


def interpreter_from(answer: Mapping[str, Any]) -> Interpreter:
    """The answer of `PROBE`."""
    return Interpreter(
        python_version=answer["python_version"],
        prefix=Path(answer["prefix"]),
        site_packages=Path(answer["site_packages"]),
        packages=answer["packages"],
    )


def framework_version(spec: EnvironmentSpec, python: Path, *, hold: Sequence[int] = ()) -> str:
    """Run the specification's import check and give the version that it prints.

    Raises:
        EnvironmentUnavailable: the framework cannot be imported, or is another version.
    """
    done = run_python(python, spec.import_check, timeout_seconds=_IMPORT_SECONDS, hold=hold)
    name = f"{spec.framework}=={spec.version}"
    if done.returncode != 0:
        reason = _last_line(done.stderr) or f"the check ended with {_ending(done.returncode)}"
        raise EnvironmentUnavailable(f"{name} does not work with {python}: {reason}")
    version = _last_line(done.stdout)
    # 2.13.0+cpu is version 2.13.0: what follows the plus says how it was built.
    if spec.version not in (version, version.partition("+")[0]):
        raise EnvironmentUnavailable(
            f"{python} has {spec.framework} {version or '(no version)'}, not {spec.version}"
        )
    return version


def _ending(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
