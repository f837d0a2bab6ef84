"""A report made again from the raw logs, and every cell and line in which it differs from the file."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, TypeVar

from dlperf.errors import UserError
from dlperf.importing.convert import check_conversion
from dlperf.report.building import build_report
from dlperf.report.pages import read_html, read_markdown
from dlperf.report.record import read_record, request_of
from dlperf.report.request import without_charts
from dlperf.results.layout import run_folders, sweep_folders
from dlperf.results.published import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dlperf.report.pages import Page, PageTable

_NOTHING = "nothing"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A place at which a report says something else than the logs."""

    place: str
    report: str
    logs: str

    def __str__(self) -> str:
        return f"{self.place}: the report says {self.report}, the logs give {self.logs}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was compared, and what differs."""

    tables: int
    cells: int
    runs: int
    differences: tuple[Difference, ...]


def verify(path: Path) -> Verified:
    """Make the report at `path` again from the logs of its runs, and compare all it says with the file.

    Raises:
        UserError: the file cannot be read, does not say what it was made from, that is not there any more, or
            the event log of an imported run is not what its original gives.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no report of dlperf: not UTF-8") from error
    record = read_record(path, text)
    request = request_of(record, folder=path.parent)
    folders = [path for path in request.paths if not str(path).startswith(PREFIX)]
    gone = [folder for folder in folders if not folder.is_dir()]
    if gone:
        raise UserError(f"{path}: it was made from {gone[0]}, which is not there: it cannot be made again")
    for run in (run for folder in folders for sweep in sweep_folders(folder) for run in run_folders(sweep)):
        check_conversion(run)
    document = build_report(request, beside=path.parent, from_logs=True)
    read = read_markdown if record.form == "md" else read_html
    said, found = read(text), read(without_charts(document, request))
    return Verified(
        tables=len(said.tables),
        cells=sum(len(row) for table in said.tables for row in table.rows),
        runs=document.runs,
        differences=(*_tables(said, found), *_lines(said, found)),
    )


def _matched(said: Sequence[T], found: Sequence[T]) -> Iterator[tuple[T | None, T | None]]:
    """Pairs that belong together, None where one side has none."""
    for kind, first, last, start, end in SequenceMatcher(a=said, b=found, autojunk=False).get_opcodes():
        if kind != "equal":
            for index in range(max(last - first, end - start)):
                yield (
                    said[first + index] if first + index < last else None,
                    found[start + index] if start + index < end else None,
                )


def _tables(said: Page, found: Page) -> Iterator[Difference]:
    for mine, other in _matched(said.tables, found.tables):
        if mine is not None and other is not None and mine.rows[0] == other.rows[0]:
            yield from _rows(mine, other)
        else:
            headings = (table.heading for table in (mine, other) if table is not None)
            yield Difference(place=f"{next(headings)}, a table", report=_columns(mine), logs=_columns(other))


def _columns(table: PageTable | None) -> str:
    return f"a table of {', '.join(table.rows[0])}" if table else _NOTHING


def _rows(said: PageTable, found: PageTable) -> Iterator[Difference]:
    columns = said.rows[0]
    for mine, other in _matched(said.rows[1:], found.rows[1:]):
        if mine is None or other is None or not len(columns) == len(mine) == len(other):
            place = f"{said.heading}, a row"
            yield Difference(place=place, report=_row(mine), logs=_row(other))
            continue
        for column, cell, again in zip(columns, mine, other, strict=True):
            if cell != again:
                place = f"{said.heading}, row {_name(mine)}, column {column}"
                yield Difference(place=place, report=repr(cell), logs=repr(again))


def _row(row: Sequence[str] | None) -> str:
    return f"a row {' | '.join(row)}" if row else _NOTHING


def _name(row: Sequence[str]) -> str:
    """Enough of a row to find it."""
    return " | ".join(row[:3])


def _lines(said: Page, found: Page) -> Iterator[Difference]:
    for mine, other in _matched(said.lines, found.lines):
        yield Difference(place="text", report=_line(mine), logs=_line(other))


def _line(line: str | None) -> str:
    return _NOTHING if line is None else repr(line)
