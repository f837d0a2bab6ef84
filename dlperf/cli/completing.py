"""What a shell offers at Tab, beyond the commands and options that click knows.

Each function takes what click gives to `shell_complete` and returns the candidates; it reads what lies here
and starts nothing. A file that cannot be read offers nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dlperf.errors import DlperfError
from dlperf.plan.documents import Kind, files_by_name

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(kind: Kind) -> Completion:
    """Names of sweeps, experiments or clusters, and the files of the folder."""

    def complete(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        names = _matching(typed, files_by_name(kind, folders=(Path.cwd(),)))
        return [CompletionItem(typed, type="file"), *names]

    return complete


def frameworks(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """`mxnet` and `mxnet==1.9.1`, also behind a comma."""
    from dlperf.adapters.registry import load_adapters

    before, comma, word = typed.rpartition(",")
    adapters = load_adapters(report=lambda _text: None).values()
    names = [name for one in adapters for name in (one.name, *(f"{one.name}=={v}" for v in one.versions))]
    return [CompletionItem(f"{before}{comma}{item.value}") for item in _matching(word, names)]


def keys(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The keys of --only and --exclude, with their `=`."""
    from dlperf.plan.selection import KEYS

    return _matching(typed, (f"{key}=" for key in KEYS))


def dialects(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The dialects of logs, and `auto`."""
    from dlperf.importing.dialects import load_dialects

    return _matching(typed, ("auto", *load_dialects(report=lambda _text: None)))


def cases(ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The ids of the cases under the folders that stand on the command line, by default `results`."""
    folders = ctx.params.get("folders") or (Path("results"),)
    return _matching(typed, dict.fromkeys(_case_ids(map(Path, folders))))


def _case_ids(folders: Iterable[Path]) -> Iterator[str]:
    from dlperf.layout import LOCK_NAME
    from dlperf.plan.plan import read_lock

    for folder in folders:
        for lock in sorted((*folder.glob(LOCK_NAME), *folder.glob(f"*/{LOCK_NAME}"))):
            with suppress(DlperfError, OSError):
                yield from (item.case_id for item in read_lock(lock).cases)


def _matching(typed: str, words: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(typed)]
