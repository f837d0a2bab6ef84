"""Find a CPython of a wanted version: pyenv's, those on PATH, uv's own; else let uv download one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.environments.processes import clean_environment
from dlperf.environments.uv import Uv, UvFailure
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A Python built without these cannot import what the frameworks import.
_PROBE = """
import ctypes, platform, ssl, sys
print(platform.python_implementation(), "%d.%d" % sys.version_info[:2])
"""


def find_python(versions: Sequence[str], *, uv: Uv, hold: Sequence[int] = ()) -> Path:
    """The first CPython that works, of `versions` such as ("3.10", "3.9"), best first.

    Raises:
        EnvironmentUnavailable: none is here and none can be downloaded.
    """
    for version in versions:
        for candidate in _candidates(version, uv):
            if works(candidate, version):
                return candidate
    return _download(versions[0], uv=uv, hold=hold)


def works(python: Path, version: str) -> bool:
    """Whether `python` starts and is a CPython of `version`, such as "3.10"."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=60, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.split() == ["CPython", version]


def _candidates(version: str, uv: Uv) -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # uv does not look where pyenv keeps its versions, and pyenv's shims on PATH refuse to start most of them.
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), key=_patch, reverse=True)
    for folder in os.get_exec_path():
        candidate = Path(folder or ".", f"python{version}").absolute()
        if candidate.exists():
            yield candidate
    if (found := _known_to_uv(version, uv)) is not None:
        yield found


def _patch(python: Path) -> int:
    match = re.match(r"\d+\.\d+\.(\d+)", python.parents[1].name)
    return int(match[1]) if match else -1


def _known_to_uv(version: str, uv: Uv) -> Path | None:
    done = subprocess.run(
        [
            uv.path,
            "python",
            "find",
            "--managed-python",
            "--no-python-downloads",
            "--no-project",
            f"cpython@{version}",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=clean_environment({}),
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _download(version: str, *, uv: Uv, hold: Sequence[int]) -> Path:
    uv.report(f"  no Python {version} here; downloading it")
    try:
        uv.run(["python", "install", version], env={}, hold=hold)
    except UvFailure as failure:
        raise EnvironmentUnavailable(
            f"there is no Python {version} on this machine, and uv cannot download it: {failure}"
        ) from failure
    found = _known_to_uv(version, uv)
    if found is None:
        raise EnvironmentUnavailable(f"uv downloaded Python {version} and does not find it")
    return found
