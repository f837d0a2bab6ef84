"""What a report was made from and how, within the report itself, so that it can be made again.

It is a comment behind the document: no reader of the page sees it, every copy of the file carries it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from dlperf.errors import UserError
from dlperf.model import Model
from dlperf.report.language import Language
from dlperf.report.request import Form, Request
from dlperf.report.view import View
from dlperf.results.published import PREFIX

_COMMENT = re.compile(r"<!-- dlperf-report (\{.*\}) -->")
# A comment must not end early; JSON can name these characters.
_NAMED = str.maketrans({"-": "\\u002d", "<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class Record(Model):
    """The arguments of `dlperf report`; paths are relative to the report's folder."""

    schema_version: Literal[1] = 1
    form: Form
    language: Language
    results: tuple[str, ...]
    certificates: tuple[str, ...] = ()
    qualification: str | None = None
    template: str | None = None
    columns: tuple[str, ...] = ()
    baseline: str | None = None
    group_by: tuple[str, ...] = ()
    price_per_device_hour: float | None = None

    def comment(self) -> str:
        """For behind the document."""
        content = self.model_dump_json(exclude_defaults=True).translate(_NAMED)
        return f"\n<!-- dlperf-report {content} -->\n"


def record_of(request: Request, *, folder: Path) -> Record:
    """The record of a report that will lie in `folder`."""
    view = request.view
    return Record(
        form=request.form,
        language=request.language,
        results=tuple(_from(folder, path) for path in request.paths),
        certificates=tuple(_from(folder, path) for path in request.certificates),
        qualification=_from(folder, request.qualification) if request.qualification else None,
        template=_from(folder, request.template) if request.template else None,
        columns=view.columns,
        baseline=view.baseline,
        group_by=view.group_by,
        price_per_device_hour=view.price_per_device_hour,
    )


def request_of(record: Record, *, folder: Path) -> Request:
    """What to make again, of a report that lies in `folder`."""
    return Request(
        form=record.form,
        language=record.language,
        paths=tuple(_at(folder, name) for name in record.results),
        certificates=tuple(_at(folder, name) for name in record.certificates),
        qualification=_at(folder, record.qualification) if record.qualification else None,
        template=_at(folder, record.template) if record.template else None,
        view=View(
            columns=record.columns,
            baseline=record.baseline,
            group_by=record.group_by,
            price_per_device_hour=record.price_per_device_hour,
        ),
    )


def _from(folder: Path, path: Path) -> str:
    return str(path) if str(path).startswith(PREFIX) else os.path.relpath(path, folder)


def _at(folder: Path, name: str) -> Path:
    return Path(name) if name.startswith(PREFIX) else Path(os.path.normpath(folder / name))


def read_record(path: Path, text: str) -> Record:
    """The record of a report.

    Raises:
        UserError: the file holds none, or one that cannot be read.
    """
    found = _COMMENT.findall(text)
    if not found:
        raise UserError(
            f"{path}: it does not say what it was made from; only a file that "
            "`dlperf report --out` wrote can be verified"
        )
    try:
        return Record.model_validate_json(found[-1])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        raise UserError(f"{path}: its record cannot be read: {where}: {first['msg']}") from error
