"""Run uv: find it, pass pip's settings on, report progress and errors; find or download a CPython with it."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dlperf.environments.processes import clean_environment, follow
from dlperf.errors import EnvironmentUnavailable

# Lines worth showing to a waiting person; the rest of uv's output lists packages.
_PROGRESS = re.compile(
    r"(Resolved|Prepared|Installed|Downloading|Building|Installing Python|Built|Updating) .*"
)
FIND_LINKS = "UV_FIND_LINKS"
_INDEX_NAME = "pip"  # of an index with a password, and its number
_DOWNLOAD = re.compile(r"(?P<state>Downloading|Downloaded) (?P<name>\S+)")


class UvFailure(Exception):
    """Uv ended with an error; the text is its reason in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uv:
    """One uv program and where its progress goes."""

    path: Path
    report: Callable[[str], None]

    @property
    def version(self) -> str:
        """Such as `uv 0.8.3`."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=True)
        return " ".join(done.stdout.split()[:2])

    def run(self, arguments: Sequence[str], *, env: Mapping[str, str], hold: Sequence[int]) -> None:
        """Run uv with `env` added to the environment; UvFailure where it ends with an error.

        Its progress is reported, line by line. See `follow` for `hold` and for paths in `arguments`.
        """

        def on_line(line: str) -> None:
            if _PROGRESS.fullmatch(line):
                self.report(f"  {line}")

        code, lines = follow(
            [str(self.path), "--color", "never", "--no-progress", *arguments],
            env=_certificates() | dict(env),
            hold=hold,
            on_line=on_line,
            on_silence=lambda lines, seconds: self.report(_sign_of_life(lines, seconds)),
        )
        if code != 0:
            raise UvFailure(reason_of(lines) or f"uv ended with exit code {code}")


def find_uv(report: Callable[[str], None]) -> Uv:
    """The uv of dlperf's own installation, else the one on PATH; EnvironmentUnavailable without any."""
    with suppress(ModuleNotFoundError, FileNotFoundError):
        import uv  # noqa: PLC0415 - the module, beside this file's own name

        return Uv(path=Path(uv.find_uv_bin()), report=report)
    found = shutil.which("uv")
    if found is None:
        raise EnvironmentUnavailable(
            "uv is not installed, and environments are made with it; run: pip install uv"
        )
    return Uv(path=Path(found).absolute(), report=report)


def find_links() -> tuple[str, ...]:
    """Uv's own list of extra places for wheels, else pip's: pages, and folders as absolute paths."""
    own = os.environ.get(FIND_LINKS, "").split(",")
    places = [place for place in own if place] or os.environ.get("PIP_FIND_LINKS", "").split()
    return tuple(place if "://" in place else str(Path(place).expanduser().absolute()) for place in places)


def index_arguments() -> tuple[list[str], dict[str, str]]:
    """Pip's settings of where packages come from, as arguments and variables of uv, which reads only its own.

    Variables of uv win. With extra indexes, the best version of all is taken, which is what pip does. Users
    and passwords are in the variables, because everyone on a machine can read the arguments of a process; so
    are all extra places for wheels, one of which may hold a password.
    """
    places = [_in_a_list(place) for place in find_links()]
    arguments: list[str] = []
    variables = {FIND_LINKS: ",".join(places)} if places else {}
    index, extra = os.environ.get("PIP_INDEX_URL"), os.environ.get("PIP_EXTRA_INDEX_URL", "").split()
    if {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(os.environ):
        index = None
    indexes = [("--default-index", index)] if index else []
    indexes += [("--index", place) for place in extra]
    for number, (option, place) in enumerate(indexes):
        url, parts = place, urlsplit(place)
        userinfo, at, host = parts.netloc.rpartition("@")
        if at:
            user, _, password = userinfo.partition(":")
            name = f"{_INDEX_NAME}{number}"
            variables[f"UV_INDEX_{name.upper()}_USERNAME"] = unquote(user)
            variables[f"UV_INDEX_{name.upper()}_PASSWORD"] = unquote(password)
            url = f"{name}={parts._replace(netloc=host).geturl()}"
        arguments.append(f"{option}={url}")
    if extra and "UV_INDEX_STRATEGY" not in os.environ:
        arguments.append("--index-strategy=unsafe-best-match")
    if os.environ.get("PIP_NO_INDEX", "").lower() in ("1", "true", "yes", "on"):
        arguments.append("--no-index")
    return arguments, variables


def _in_a_list(place: str) -> str:
    """A place as uv reads it where commas separate them."""
    if "," not in place:
        return place
    return (place if "://" in place else Path(place).as_uri()).replace(",", "%2C")


def reason_of(lines: Sequence[str]) -> str:
    """The reason in uv's output, as one line: from its last `error:` on, without the markup."""
    starts = [number for number, line in enumerate(lines) if line.startswith("error:")]
    parts = (
        [re.sub(r"^(error|cause|hint):\s*", "", line) for line in lines[starts[-1] :]]
        if starts
        else lines[-3:]
    )
    return "; ".join(dict.fromkeys(part.rstrip(".:") for part in parts if part))


def _certificates() -> dict[str, str]:
    certificates = os.environ.get("PIP_CERT")
    return {"SSL_CERT_FILE": certificates} if certificates and "SSL_CERT_FILE" not in os.environ else {}


def _sign_of_life(lines: Sequence[str], seconds: float) -> str:
    found = [match for line in lines if (match := _DOWNLOAD.match(line))]
    done = {match["name"] for match in found if match["state"] == "Downloaded"}
    pending = dict.fromkeys(match["name"] for match in found if match["name"] not in done)
    doing = f"downloading {', '.join(pending)}" if pending else "working"
    return f"  still {doing} ({seconds:.0f} s)"


# A Python built without these cannot import what the frameworks import.
_PROBE = """
import ctypes, platform, ssl, sys
print(platform.python_implementation(), "%d.%d" % sys.version_info[:2])
"""


def find_python(versions: Sequence[str], *, uv: Uv, hold: Sequence[int] = ()) -> Path:
    """The first CPython that works, of `versions` such as ("3.10", "3.9"), best first, else a downloaded one.

    EnvironmentUnavailable where that fails.
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
    options = ("--managed-python", "--no-python-downloads", "--no-project")
    done = subprocess.run(
        [uv.path, "python", "find", *options, f"cpython@{version}"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=clean_environment({}),
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def _download(version: str, *, uv: Uv, hold: Sequence[int]) -> Path:
    uv.report(f"  no Python {version} found; downloading it")
    try:
        uv.run(["python", "install", version], env={}, hold=hold)
    except UvFailure as failure:
        raise EnvironmentUnavailable(
            f"there is no Python {version} on this machine, and uv cannot download it: {failure}"
        ) from failure
    found = _known_to_uv(version, uv)
    if found is None:
        raise EnvironmentUnavailable(f"uv downloaded Python {version} but cannot find it")
    return found
