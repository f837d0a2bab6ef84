"""Framework environments on a node: made with uv, or from a copy that was made elsewhere.

dlperf/environments decides what is installed and how it is checked; this module does the part on the node.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from frameworks.node import Refused
from frameworks.node.commands import output

Answer = Dict[str, Any]
Say = Callable[[Answer], None]
MANIFEST = "dlperf-environment.json"
UV_CACHE = "uv-cache"  # under our folder
# As dlperf/environments allows: a cold disk, other load, and not an engine that hangs on its GPU.
CHECK_SECONDS = 900.0
UNVERIFIED = "not verified: "  # how a line of a check begins that says what could not be tried here
# Calls prctl(PR_SET_PDEATHSIG, SIGKILL) and becomes the program: preexec_fn is unsafe with threads.
_TIED = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
_PYTHON_PROBE = (
    "import ctypes, platform, ssl, sys; "
    "print(platform.python_implementation(), '%d.%d' % sys.version_info[:2])"
)


def find_uv(work: Path) -> Optional[str]:
    """The uv of this node: on PATH, where its installer puts it, or the one that dlperf copied here."""
    brought = sorted((work / "tools").glob("uv-*"))
    candidates = [shutil.which("uv"), str(Path.home() / ".local/bin/uv"), *map(str, brought)]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def uv_cache(work: Path) -> Dict[str, str]:
    """The variable that keeps uv's downloads beside our own files, unless the user chose a place for them.

    The home folder may be full or small: that is why a cluster file names another. With the default folder
    they stay where every uv has them.
    """
    usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    if "UV_CACHE_DIR" in os.environ or work.parent == Path(usual):
        return {}
    return {"UV_CACHE_DIR": str(work / UV_CACHE)}


def run_tied(argv: List[str], variables: Dict[str, str], **options: Any) -> "subprocess.Popen[str]":
    """Start a program that ends with this process."""
    command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *argv]
    misleading = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in misleading}
    return subprocess.Popen(
        command,
        cwd="/",
        env={**kept, "PYTHONNOUSERSITE": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        **options,
    )


def checked(python: str, probe: str, import_check: str) -> Answer:
    """What an interpreter reports of itself and its framework; Refused if it does not work.

    `python` may be a name on PATH.
    """
    found = shutil.which(os.path.expanduser(python))  # noqa: PTH111  which takes text
    if found is None:
        raise Refused(
            f"{python} is not an executable on this node; give the path of a Python with the framework"
        )
    answers: List[List[str]] = []
    for source in (probe, import_check):
        with run_tied([found, "-c", source], {}, stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(timeout=CHECK_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Refused(f"{python} gave no answer within {CHECK_SECONDS:g} s") from None
        if process.returncode:
            fatal = re.findall(r"^F\d{8} .*?\] (.*)", err, re.MULTILINE)  # of glog, above a stack trace
            last = (err.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
            raise Refused(f"{python} does not work: {fatal[0].strip() if fatal else last}")
        answers.append(out.strip().splitlines() or [""])
    unverified = [line[len(UNVERIFIED) :] for line in answers[1] if line.startswith(UNVERIFIED)]
    return {
        "python": found,
        "probe": json.loads(answers[0][-1]),
        "version": answers[1][-1],
        "unverified": unverified,
    }


def environment(
    work: Path,
    say: Say,
    *,
    key: str,
    pythons: List[str],
    version: str,
    probe: str,
    import_check: str,
    steps: List[Answer],
    manifest: Answer,
    copied: Optional[str],
    found_only: bool,
) -> Optional[Answer]:
    """The environment `key`: found, or made by the uv commands `steps`, or made from a folder copied here.

    A step has `variables`, and `arguments` in which {python}, {folder} and {interpreter} stand for the base
    Python, the new environment and its interpreter. It appears under its name only when complete and checked.
    With `found_only` none is made, and the answer may be None.
    """
    root = work / "environments" / key
    if found_only and not (root / MANIFEST).exists():
        return None
    root.parent.mkdir(parents=True, exist_ok=True)
    with _held(root.parent / f".{key}.lock", say):
        if not (root / MANIFEST).exists():
            base = find_python(work, pythons, say)
            temporary = root.parent / f".making-{key}"
            shutil.rmtree(temporary, ignore_errors=True)
            if copied is None:
                uv = find_uv(work)
                if uv is None:
                    raise Refused("there is no uv on this node")
                words = {
                    "{python}": base,
                    "{folder}": str(temporary),
                    "{interpreter}": str(temporary / "bin" / "python"),
                }
                for command in steps:
                    arguments = [words.get(word, word) for word in command["arguments"]]
                    step(uv, arguments, command["variables"], say)
            else:
                rebase(Path(copied), base)
                Path(copied).replace(temporary)
            say({"progress": "checking that it works"})
            found = checked(str(temporary / "bin" / "python"), probe, import_check)
            if version not in (found["version"], found["version"].partition("+")[0]):
                raise Refused(f"the environment holds version {found['version']}, not {version}")
            for line in found["unverified"]:
                say({"progress": f"{UNVERIFIED}{line}; the first run will show it"})
            content = {
                **manifest,
                "version": found["version"],
                "python_version": found["probe"]["python_version"],
                "packages": found["probe"]["packages"],
                "unverified": found["unverified"],
            }
            (temporary / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(root, ignore_errors=True)
            temporary.rename(root)
    manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    return {"python": str(root / "bin" / "python"), "manifest": manifest}


@contextlib.contextmanager
def _held(path: Path, say: Say) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say({"progress": "another dlperf makes this environment; waiting for it"})
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def find_python(work: Path, versions: List[str], say: Say) -> str:
    """The first CPython of `versions` that works here: pyenv's, on PATH, or uv's; else uv downloads one."""
    uv = find_uv(work)
    for version in versions:
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        candidates = [str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))]
        candidates += [os.path.join(folder, f"python{version}") for folder in os.get_exec_path()]  # noqa: PTH118
        candidates += [(uv and output(uv, "python", "find", "--managed-python", f"cpython@{version}")) or ""]
        for candidate in candidates:
            if candidate and output(candidate, "-I", "-c", _PYTHON_PROBE) == f"CPython {version}":
                return candidate
    if uv is None:
        raise Refused(
            f"there is no Python {' or '.join(versions)} on this node, and no uv that could fetch one"
        )
    say({"progress": f"no Python {versions[0]} here; downloading it"})
    step(uv, ["python", "install", versions[0]], {}, say)
    found = output(uv, "python", "find", "--managed-python", f"cpython@{versions[0]}")
    if found is None:
        raise Refused(f"uv downloaded Python {versions[0]} and does not find it")
    return found


def step(uv: str, arguments: List[str], variables: Dict[str, str], say: Say) -> None:
    """Run uv once; its output is reported as progress, and its last lines as the reason of a failure."""
    # Folders of wheels on the controlling machine, perhaps on a shared disk.
    if "UV_FIND_LINKS" in variables:
        places = variables["UV_FIND_LINKS"].split(",")
        here = [place for place in places if not place.startswith("/") or Path(place).is_dir()]
        variables = {**variables, "UV_FIND_LINKS": ",".join(here)}
    last: List[str] = []
    with run_tied(
        [uv, "--color", "never", "--no-progress", *arguments], variables, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            say({"progress": line.rstrip()})
            last = [*last[-4:], line.strip()]
    if process.returncode:
        raise Refused(" ".join(word for word in last if word) or f"uv ended with {process.returncode}")


def rebase(folder: Path, base: str) -> None:
    """Make a virtual environment from another machine use this machine's Python."""
    home = Path(base).parent
    config = folder / "pyvenv.cfg"
    lines = config.read_text(encoding="utf-8").splitlines()
    kept = [f"home = {home}" if line.split("=")[0].strip() == "home" else line for line in lines]
    config.write_text("\n".join(kept) + "\n", encoding="utf-8")
    for name in ("python", "python3", f"python{'.'.join(platform.python_version_tuple()[:2])}"):
        (folder / "bin" / name).unlink(missing_ok=True)
    (folder / "bin" / "python").symlink_to(base)
    (folder / "bin" / "python3").symlink_to("python")
