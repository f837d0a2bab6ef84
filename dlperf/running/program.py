"""`program.json`: what the node needs to know to run an original program, and how people see it.

docs/formats.md describes it; frameworks/original/ reads it.
"""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from dlperf.adapters.base import PROGRAM_NAME, WORK_FOLDER, Program, RankPlacement, SourceEdit
from dlperf.importing.dialects import load_dialects
from dlperf.importing.dialects.base import Dialect
from dlperf.model import Model
from dlperf.plan.case import DataForm
from dlperf.redaction import redacted_variables

PROGRAM_SCHEMA_VERSION: Final = 1
_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


class DialectPatterns(Model):
    """What a throughput line looks like; each character of a text stands for one byte (Latin-1)."""

    name: str
    scope: Literal["job", "process"]
    needles: tuple[str, ...]
    patterns: tuple[str, ...]
    loss_line: str | None


class ProcessText(Model):
    """A process: its variables are added to those of the rank; empty `cpus` leave it on the rank's."""

    argv: tuple[str, ...]
    env: dict[str, str]
    folder: str
    cpus: tuple[int, ...] = ()


class ProgramFile(Model):
    """The file itself; `source` and `work` are folders on the node."""

    schema_version: Literal[1] = PROGRAM_SCHEMA_VERSION
    source: str
    work: str
    processes: tuple[ProcessText, ...]
    dialect: DialectPatterns
    iterations_per_line: int
    distribution: str
    data_form: DataForm | None = None
    edits: tuple[SourceEdit, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)


def program_file(
    program: Program, *, source: Path, work: Path, placements: Sequence[RankPlacement]
) -> ProgramFile:
    """The file for a program that drives the devices of `placements`; ValueError for an unknown dialect.

    One process per device is bound to the CPUs of its device; otherwise all may use those of all devices.
    """
    one_each = len(program.processes) == len(placements) > 1
    unbound: list[tuple[int, ...]] = [()] * len(program.processes)
    shares = [placement.cpus for placement in placements] if one_each else unbound
    return ProgramFile(
        source=str(source),
        work=str(work),
        processes=tuple(
            ProcessText(argv=process.argv, env=process.env, folder=process.folder, cpus=cpus)
            for process, cpus in zip(program.processes, shares, strict=True)
        ),
        dialect=_patterns(program.dialect),
        iterations_per_line=program.iterations_per_line,
        distribution=program.distribution,
        data_form=program.data_form,
        edits=program.edits,
        files=program.files,
    )


@cache
def _dialects() -> Mapping[str, Dialect]:
    return load_dialects()


def _patterns(name: str) -> DialectPatterns:
    dialect = _dialects().get(name)
    if dialect is None:
        raise ValueError(f"the adapter names the dialect {name!r}; known: {', '.join(_dialects())}")
    loss_line = dialect.loss_line
    return DialectPatterns(
        name=dialect.name,
        scope=dialect.scope.value,
        needles=tuple(needle.decode("latin-1") for needle in dialect.needles),
        patterns=tuple(map(_text, dialect.patterns)),
        loss_line=None if loss_line is None else _text(loss_line),
    )


def _text(pattern: re.Pattern[bytes]) -> str:
    """The pattern with its flags in front."""
    letters = "".join(letter for letter, flag in _FLAGS.items() if pattern.flags & flag)
    return (f"(?{letters})" if letters else "") + pattern.pattern.decode("latin-1")


def program_commands(program: ProgramFile) -> Iterator[str]:
    """Its processes as shell commands, as seen from the run folder."""
    for process in program.processes:
        bound = ["taskset", "-c", ",".join(map(str, process.cpus))] if process.cpus else []
        variables = [
            f"{name}={value}" for name, value in redacted_variables(process.env, is_known=bool).items()
        ]
        command = shlex.join([*bound, "env", *variables, *process.argv])
        folder = Path(WORK_FOLDER) / process.folder
        yield f"cd {shlex.quote(str(folder))} && {command}"


def program_lines(program: ProgramFile) -> Iterator[str]:
    """The program for people: its processes as shell commands, then what is changed in the copy."""
    yield f"# in {program.work}, a copy of {program.source}, it starts:"
    yield from program_commands(program)
    for edit in program.edits:
        yield f"# in {edit.file} it replaces:"
        lines = difflib.unified_diff(edit.before.splitlines(), edit.after.splitlines(), n=99, lineterm="")
        yield from (f"#   {line}" for line in list(lines)[3:])
    for name, text in program.files.items():
        yield f"# it writes {name}:"
        yield from (f"#   {line}" for line in text.splitlines())


def program_of(launch: Any) -> ProgramFile | None:
    """The original program in the content of a launch file; None without one, ValueError where it is none."""
    files = launch.get("files", {}) if isinstance(launch, dict) else {}
    text = files.get(PROGRAM_NAME) if isinstance(files, dict) else None
    return None if text is None else ProgramFile.model_validate_json(text)
