"""A report made again from the raw logs, and what is new, gone or changed since it was written.

Results are compared case by case and repeat by repeat with the report's own record. The text comes last: a
line whose fingerprint is not in the record was edited; where no result changed, every line is compared with
the report made again.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum
from itertools import zip_longest
from pathlib import Path

from dlperf.errors import UserError
from dlperf.importing.convert import check_conversion
from dlperf.layout import run_folders, sweep_folders
from dlperf.report.document import build_report
from dlperf.report.numbers import rate
from dlperf.report.record import (
    DocumentLine,
    Record,
    RecordedCase,
    RecordedRun,
    document_lines,
    file_digest,
    read_record,
    recorded_cases,
    request_of,
)
from dlperf.report.render import render
from dlperf.report.tables import STATUS_WORDS
from dlperf.report.text import plain_text
from dlperf.results.published import PREFIX
from dlperf.wording import plural

_MOST_SHOWN = 20  # of one kind
_CONTEXT = 2  # words before and after those that differ
_WORD = re.compile(r"<[^>]*>|[^<\s]+")


class Kind(Enum):
    """Kinds of differences in the order in which they are told: the words for one, and for several."""

    NEW_CASE = ("case is new since the report", "cases are new since the report")
    GONE_CASE = ("case of the report is gone", "cases of the report are gone")
    NEW_RUN = ("run is new since the report", "runs are new since the report")
    GONE_RUN = ("run of the report is gone", "runs of the report are gone")
    CHANGED_FILES = ("run's files differ", "runs' files differ")
    IMPORT = ("imported log is not what its original gives", "imported logs differ from their originals")
    CHANGED_RUN = ("run's figure is not what its logs give", "runs' figures are not what their logs give")
    CHANGED_CASE = ("case's figure differs, not its runs", "cases' figures differ, not their runs")
    EDITED = ("place was edited", "places were edited")
    TEXT = ("line is not what the logs give", "lines are not what the logs give")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the report and its results differ; `what` names it."""

    kind: Kind
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was compared, and what differs.

    `following` counts the lines of the file that the changed results would change too.
    """

    cases: int
    runs: int
    differences: tuple[Difference, ...]
    following: int = 0

    def lines(self) -> Iterator[str]:
        """The differences for a terminal, kind by kind."""
        for kind in Kind:
            items = [difference.what for difference in self.differences if difference.kind is kind]
            if not items:
                continue
            heading = f"{len(items)} {kind.value[len(items) > 1]}:"
            if len(items) == 1:
                yield f"{heading} {items[0]}"
                continue
            yield heading
            yield from (f"  {item}" for item in items[:_MOST_SHOWN])
            if len(items) > _MOST_SHOWN:
                yield f"  and {len(items) - _MOST_SHOWN} more"
        if self.following:
            yield f"Lines of the report that would change with these results: {self.following}"


def verify(path: Path) -> Verified:
    """Make the report at `path` again from the logs of its runs, and compare it with the file.

    UserError where the file cannot be read or does not say what it was made from, or that is gone.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no report of dlperf: not UTF-8") from error
    record, text = read_record(path, text)
    request = request_of(record, folder=path.parent)
    folders = [folder for folder in request.paths if not str(folder).startswith(PREFIX)]
    gone = [folder for folder in folders if not folder.is_dir()]
    if gone:
        raise UserError(f"{path}: it was made from {gone[0]}, which is not there: it cannot be made again")
    document = build_report(request, report_folder=path.parent, from_logs=True)
    cases = recorded_cases(document, folder=path.parent)
    results = [*_compare_cases(record.cases, cases, skipped=document.skipped), *_compare_imports(folders)]
    written, made = document_lines(text), document_lines(render(document, request))
    edited = _edited_lines(record, written)
    comparable = [line for line in written if not line.chart]
    following = 0
    if results:
        shown = [Difference(Kind.EDITED, what) for what in edited.values()]
        known = Counter(line.text for line in comparable if line.number not in edited)
        following = (known - Counter(line.text for line in made)).total()
    else:
        shown = list(_compare_lines(comparable, made, edited=edited))
    charts = path.parent / f"{path.stem}_files"
    for name, digest in record.charts.items():
        if (file := charts / name).is_file() and file_digest(file.read_bytes()) != digest:
            shown.append(Difference(Kind.EDITED, f"{charts.name}/{name}"))
    return Verified(cases=len(cases), runs=document.runs, differences=(*results, *shown), following=following)


def _compare_cases(
    before: Sequence[RecordedCase], now: Sequence[RecordedCase], *, skipped: Sequence[str]
) -> Iterator[Difference]:
    """By results folder and case id; a case on several kinds of machines has one entry for each."""
    several = len({case.results for case in (*before, *now)}) > 1
    old, new = _by_name(before), _by_name(now)
    for key in dict.fromkeys((*old, *new)):
        results, case_id = key
        name = f"{case_id} in {results}" if several else case_id
        if key not in old:
            yield Difference(Kind.NEW_CASE, f"{name}: {_case_words(new[key])}")
        elif key not in new:
            why = _why_skipped(f"{case_id}/", skipped) or _case_words(old[key])
            yield Difference(Kind.GONE_CASE, f"{name}: {why}")
        else:
            runs = list(_compare_runs(name, old[key], new[key], skipped=skipped))
            yield from runs
            figures = [", ".join(map(_figure, cases)) for cases in (old[key], new[key])]
            if not runs and figures[0] != figures[1]:
                yield Difference(Kind.CHANGED_CASE, f"{name}: {' -> '.join(figures)}")


Cases = list[RecordedCase]


def _by_name(cases: Sequence[RecordedCase]) -> dict[tuple[str, str], Cases]:
    named: dict[tuple[str, str], Cases] = {}
    for case in cases:
        named.setdefault((case.results, case.case_id), []).append(case)
    return named


def _compare_runs(name: str, before: Cases, now: Cases, *, skipped: Sequence[str]) -> Iterator[Difference]:
    old, new = ({run.name: run for case in cases for run in case.runs} for cases in (before, now))
    for repeat in dict.fromkeys((*old, *new)):
        run = f"{name} {repeat}"
        if repeat not in old:
            yield Difference(Kind.NEW_RUN, f"{run}: {_figure(new[repeat])}")
        elif repeat not in new:
            why = _why_skipped(f"{before[0].case_id}/{repeat}/", skipped) or _figure(old[repeat])
            yield Difference(Kind.GONE_RUN, f"{run}: {why}")
        else:
            yield from _compare_run(run, old[repeat], new[repeat])


def _compare_run(name: str, before: RecordedRun, now: RecordedRun) -> Iterator[Difference]:
    names = dict.fromkeys((*before.files, *now.files))
    files = [file for file in names if before.files.get(file) != now.files.get(file)]
    same = (before.status, before.samples_per_sec) == (now.status, now.samples_per_sec)
    figure = f"still {_figure(now)}" if same else f"{_figure(before)} -> {_figure(now)}"
    if files:
        yield Difference(Kind.CHANGED_FILES, f"{name}: {figure} ({', '.join(files)})")
    elif not same:
        yield Difference(Kind.CHANGED_RUN, f"{name}: {figure}")


def _compare_imports(folders: Sequence[Path]) -> Iterator[Difference]:
    """Original logs converted to event logs again."""
    for run in (run for folder in folders for sweep in sweep_folders(folder) for run in run_folders(sweep)):
        try:
            check_conversion(run)
        except UserError as error:
            yield Difference(Kind.IMPORT, str(error))


def _figure(of: RecordedCase | RecordedRun) -> str:
    """Samples/s, or the status where there are none."""
    if of.samples_per_sec is None:
        return plain_text(STATUS_WORDS[of.status])
    return f"{rate(of.samples_per_sec)} samples/s"


def _case_words(cases: Cases) -> str:
    return ", ".join(f"{_figure(case)} ({plural(len(case.runs), 'run')})" for case in cases)


def _why_skipped(part: str, skipped: Sequence[str]) -> str:
    """What the report made again says of a file that it could not read."""
    return next((line for line in skipped if f"/{part}" in line), "")


def _edited_lines(record: Record, written: Sequence[DocumentLine]) -> dict[int, str]:
    """Lines that are not as dlperf wrote them, by number; where lines are gone it is the one after them."""
    edited: dict[int, str] = {}
    for first, last, start, end in _changes(record.lines, [line.fingerprint for line in written]):
        for line in written[start:end]:
            what = "a chart" if line.chart else _short(line.text)
            edited[line.number] = f"line {line.number}: {what}"
        missing = (last - first) - (end - start)
        if missing > 0:
            number = written[end].number if end < len(written) else written[-1].number + 1
            edited.setdefault(number, f"before line {number}: lines removed: {missing}")
    return edited


def _compare_lines(
    written: Sequence[DocumentLine], made: Sequence[DocumentLine], *, edited: dict[int, str]
) -> Iterator[Difference]:
    """Lines that differ from the report made again, and edits that these do not show, such as of a chart."""
    unseen = dict(edited)
    for first, last, start, end in _changes([line.text for line in written], [line.text for line in made]):
        after = written[last].number if last < len(written) else 0
        for line, again in zip_longest(written[first:last], made[start:end]):
            number = line.number if line else after
            where = f"line {number}" if line else f"before line {number}" if number else "at the end"
            said, given = _apart(line.text if line else "", again.text if again else "")
            unseen.pop(number, None)
            yield Difference(
                Kind.EDITED if number in edited else Kind.TEXT, f"{where}: {said}; the logs give {given}"
            )
    yield from (Difference(Kind.EDITED, what) for what in unseen.values())


def _changes(before: Sequence[str], now: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """What differs: from and to in `before`, from and to in `now`."""
    for kind, *place in SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
        if kind != "equal":
            yield (place[0], place[1], place[2], place[3])


def _apart(said: str, given: str) -> tuple[str, str]:
    """The words in which two lines differ, with some before and after them."""
    ours, theirs = _WORD.findall(said), _WORD.findall(given)
    changes = list(_changes(ours, theirs))
    if not changes or not ours or not theirs:
        return _short(said), _short(given)
    (first, _, start, _), (_, last, _, end) = changes[0], changes[-1]
    return (
        _short(" ".join(ours[max(0, first - _CONTEXT) : last + _CONTEXT])),
        _short(" ".join(theirs[max(0, start - _CONTEXT) : end + _CONTEXT])),
    )


def _short(text: str) -> str:
    most = 160
    return repr(text if len(text) <= most else f"{text[:most]}...") if text else "nothing"
