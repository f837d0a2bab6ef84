"""The programs of the package's docstring: a run's files arrive, its supervisor works, its logs leave."""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from frameworks.node import Refused
from frameworks.node.locks import until_deserted


def run(work: Path, name: str, size: int) -> int:
    """Write the files of a run, which come first as `size` bytes of JSON, and supervise it here."""
    from frameworks import supervisor  # noqa: PLC0415  the other programs need neither
    from frameworks.node.channels import read_exactly  # noqa: PLC0415

    data = read_exactly(size)  # what follows is the lease
    if data is None:
        raise EOFError("standard input ended early")
    content = json.loads(data)
    folder = work / "runs" / name
    if folder.exists():
        until_deserted(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for file, text in content["files"].items():
        (folder / file).write_text(text, encoding="utf-8")
    os.environ.update(content["environment"])
    os.chdir(folder)
    sys.argv[1:] = ["launch.json"]
    return supervisor.main()


def fetch(work: Path, name: str) -> int:
    """Write logs, telemetry and outcome of a run as a tar; when the reader confirms by a byte, remove it."""
    folder = work / "runs" / name
    until_deserted(folder)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        # The outcome comes last: if it has arrived, everything has.
        names = ("logs/rank*.log", "telemetry*.csv", "outcome.json")
        for path in (path for name in names for path in sorted(folder.glob(name))):
            if path.is_file():
                archive.add(str(path), str(path.relative_to(folder)))
    sys.stdout.flush()
    if os.read(0, 1):
        shutil.rmtree(folder)
    return 0


def put(target: Path, *, executable: bool) -> int:
    """Store standard input at `target`: a program, or a tar that becomes a folder."""
    temporary = target.with_name(f".putting-{target.name}-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if executable:
            with temporary.open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
            temporary.chmod(0o755)
        else:
            with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
                # Made by dlperf from its own files; newer Pythons would refuse the links of an environment.
                trusting = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
                archive.extractall(str(temporary), **trusting)  # type: ignore[arg-type]  # noqa: S202
            shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()
    print("put", flush=True)
    return 0


def main() -> int:
    """Do what the command line says; the exit code."""
    work, *words = sys.argv[1:]
    folder = Path(work).expanduser().absolute()
    try:
        if not words:
            from frameworks.node.attend import Attendant  # noqa: PLC0415  a run does not need it

            Attendant(folder).serve()
            return 0
        if words[0] == "run":
            return run(folder, words[1], int(words[2]))
        if words[0] == "fetch":
            return fetch(folder, words[1])
        return put(folder / words[1], executable=words[0] == "put-program")
    except (Refused, OSError, ValueError, EOFError) as error:
        print(f"dlperf on this node: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
