"""What a report was made from and how, within the report itself, so that it can be made again and compared.

The record is a comment behind the document: no reader of the page sees it, every copy of the file carries it.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dlperf.errors import UserError
from dlperf.model import Model
from dlperf.report.columns import View
from dlperf.report.document import Document, Form, Language, Request
from dlperf.results.published import PREFIX
from dlperf.results.schema import Status

_COMMENT = re.compile(r"\n?<!-- dlperf-report (\{.*\}) -->\n?")
# A comment must not end early; JSON can name these characters.
_NAMED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_DIGITS_OF_FILE, _DIGITS_OF_LINE = 8, 6
_RULE = re.compile("-{3,}")
_FIGURE = '<figure class="chart"'
_LINE = re.compile(rf"{_FIGURE}.*?</figure>|[^\n]+", re.DOTALL)


class RecordedRun(Model):
    """A run behind the report."""

    name: str  # of its folder, such as r2
    status: Status
    samples_per_sec: float | None = None
    files: dict[str, str] = Field(default_factory=dict)  # 8 digits of SHA-256 by name: case, outcome, logs


class RecordedCase(Model):
    """A case of the report; one without a run was planned, or is a published figure."""

    results: str  # the sweep's folder, from the report's folder on, or published:NAME
    case_id: str
    status: Status
    samples_per_sec: float | None = None
    runs: tuple[RecordedRun, ...] = ()


class Record(Model):
    """The arguments of `dlperf report`, what its figures were, and the fingerprints of what it wrote.

    Paths are relative to the report's folder. `lines` has 6 digits of SHA-256 per line of `document_lines`;
    `charts` has 8 by the name of a chart's file.
    """

    schema_version: Literal[2]
    form: Form
    language: Language
    results: tuple[str, ...]
    against: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    qualification: str | None = None
    template: str | None = None
    columns: tuple[str, ...] = ()
    baseline: str | None = None
    group_by: tuple[str, ...] = ()
    price_per_device_hour: float | None = None
    cases: tuple[RecordedCase, ...] = ()
    lines: tuple[str, ...]
    charts: dict[str, str] = Field(default_factory=dict)

    def comment(self) -> str:
        """For behind the document."""
        content = self.model_dump_json(exclude_defaults=True).translate(_NAMED)
        content = content.replace("--", "\\u002d\\u002d")
        return f"\n<!-- dlperf-report {content} -->\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """A line that is not empty, its white space reduced; all lines of an inline chart are one."""

    number: int  # from 1
    text: str
    chart: bool

    @property
    def fingerprint(self) -> str:
        """Equal for equal lines."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_DIGITS_OF_LINE]


def document_lines(text: str) -> tuple[DocumentLine, ...]:
    """The lines of a report without its record."""
    lines: list[DocumentLine] = []
    number, start = 1, 0
    for match in _LINE.finditer(text):
        number, start = number + text.count("\n", start, match.start()), match.start()
        # The padding of a Markdown table says nothing.
        line = _RULE.sub("---", " ".join(" ".join(part.split()) for part in match[0].split("\n")))
        if line:
            lines.append(DocumentLine(number=number, text=line, chart=line.startswith((_FIGURE, "[!["))))
    return tuple(lines)


def file_digest(content: bytes) -> str:
    """The fingerprint of a chart's file."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS_OF_FILE]


def record_of(
    document: Document, request: Request, *, folder: Path, text: str, charts: Mapping[str, bytes]
) -> Record:
    """The record of a report that will lie in `folder`; `text` is all of it, `charts` files beside it."""
    return Record(
        schema_version=2,
        form=request.form,
        language=request.language,
        results=tuple(_from(folder, path) for path in request.paths),
        against=request.against,
        certificates=tuple(_from(folder, path) for path in request.certificates),
        qualification=_from(folder, request.qualification) if request.qualification else None,
        template=_from(folder, request.template) if request.template else None,
        cases=recorded_cases(document, folder=folder),
        lines=tuple(line.fingerprint for line in document_lines(text)),
        charts={name: file_digest(content) for name, content in charts.items()},
        **asdict(request.view),
    )


def recorded_cases(document: Document, *, folder: Path) -> tuple[RecordedCase, ...]:
    """The cases of a report that lies in `folder`, with their runs."""
    return tuple(
        RecordedCase(
            results=_from(folder, figure.sweep),
            case_id=figure.case.case_id,
            status=figure.status,
            samples_per_sec=figure.summary.median if figure.summary else None,
            runs=tuple(
                RecordedRun(
                    name=run.folder.name,
                    status=run.result.status,
                    samples_per_sec=run.result.figures.samples_per_sec if run.result.figures else None,
                    files={
                        name: digest[:_DIGITS_OF_FILE]
                        for name, digest in document.sources.get(run.folder, {}).items()
                    },
                )
                for run in figure.runs
            ),
        )
        for figure in document.figures
    )


def request_of(record: Record, *, folder: Path) -> Request:
    """What to make again, of a report that lies in `folder`."""
    return Request(
        form=record.form,
        language=record.language,
        paths=tuple(_at(folder, name) for name in record.results),
        against=record.against,
        certificates=tuple(_at(folder, name) for name in record.certificates),
        qualification=_at(folder, record.qualification) if record.qualification else None,
        template=_at(folder, record.template) if record.template else None,
        view=View(**{field.name: getattr(record, field.name) for field in fields(View)}),
    )


def _from(folder: Path, path: Path) -> str:
    return str(path) if str(path).startswith(PREFIX) else os.path.relpath(path, folder)


def _at(folder: Path, name: str) -> Path:
    return Path(name) if name.startswith(PREFIX) else Path(os.path.normpath(folder / name))


def read_record(path: Path, text: str) -> tuple[Record, str]:
    """The record of a report, and the report without it; UserError where none can be read."""
    comments = list(_COMMENT.finditer(text))
    if not comments:
        raise UserError(
            f"{path}: it does not say what it was made from; only a file that "
            "`dlperf report --out` wrote can be verified"
        )
    comment = comments[-1]
    try:
        record = Record.model_validate_json(comment[1])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        if (where, first["type"]) == ("schema_version", "missing"):
            raise UserError(f"{path}: an older dlperf wrote it; write it again to verify it") from error
        raise UserError(f"{path}: its record cannot be read: {where}: {first['msg']}") from error
    return record, text[: comment.start()] + text[comment.end() :]
