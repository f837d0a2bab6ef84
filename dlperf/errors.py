"""Every exception that dlperf raises on purpose.

DlperfError                 its text is one line for a person; `exit_code` is the process's
├── UserError          (2)  a file, a flag or a value given by the user is wrong
│   └── SourceErrors   (2)  one or more problems in files, each with its place
├── EnvironmentUnavailable (5)  a framework cannot be installed or used on this machine
└── InfrastructureError (5)  a node, a disk or a connection failed

A case that fails is no exception: it is a result with a status (`dlperf.results.schema.Status`).
"""

from dataclasses import dataclass
from typing import ClassVar


class DlperfError(Exception):
    """The base of every error whose text is meant for the user."""

    exit_code: ClassVar[int] = 5


class UserError(DlperfError):
    """Something the user wrote is wrong; the text says what, where, and what to do."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong at one place of a file; line and column count from 1, 0 means the whole file."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class SourceErrors(UserError):
    """All problems found in the user's files, in the order of the files' lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class EnvironmentUnavailable(DlperfError):
    """A framework's environment cannot be made here; the text gives the reason and the next step."""


class InfrastructureError(DlperfError):
    """A node, a disk or a connection failed, not a case."""
