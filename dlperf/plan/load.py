"""Sweep and experiment files by name -> a checked Sweep, or every problem found in them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from dlperf.adapters.base import Adapter
from dlperf.errors import Problem, SourceErrors, UserError
from dlperf.plan.checks import at_places, framework_entries, grid_problems, sweep_problems
from dlperf.plan.documents import (
    Document,
    KeyPath,
    Value,
    find_file,
    parse_document,
    parse_scalar,
    problems_of,
    read_document,
    shown,
    unknown,
    validate,
)
from dlperf.plan.sweep import ExperimentFile, FrameworkEntry, SweepFile
from dlperf.plan.versions import Origin, read_wheel


def with_origins(
    file: SweepFile, *, folder: Path, adapters: Mapping[str, Adapter]
) -> tuple[SweepFile, dict[str, Origin], list[tuple[KeyPath, str]]]:
    """The sweep with each version from elsewhere under its label; the origins by `name==label`; problems.

    Args:
        file: as written.
        folder: that paths of wheels are relative to.
        adapters: by name.
    """
    origins: dict[str, Origin] = {}
    problems: list[tuple[KeyPath, str]] = []
    entries: dict[KeyPath, FrameworkEntry] = {}
    for path, entry in framework_entries(file):
        try:
            origin = origin_of(entry, folder=folder, adapter=adapters[entry.name])
        except ValueError as error:
            problems.append(((*path, "wheel"), str(error)))
            origin = None
        if origin is not None:
            entries[path] = entry.model_copy(update={"version": origin.label})
            origins[str(entries[path])] = origin
    return (_with_entries(file, entries) if entries else file), origins, problems


def origin_of(entry: FrameworkEntry, *, folder: Path, adapter: Adapter) -> Origin | None:
    """Where a framework's version comes from; None where the adapter says it. `folder`: of relative paths.

    Raises:
        ValueError: the wheel is not there, or not one that the adapter can use.
    """
    if entry.wheel is not None:
        return read_wheel(entry.wheel, folder=folder, adapter=adapter)
    return None if entry.index is None else Origin(version=str(entry.version), index=entry.index)


def _with_entries(file: SweepFile, entries: Mapping[KeyPath, FrameworkEntry]) -> SweepFile:
    def replaced(path: KeyPath, listed: tuple[FrameworkEntry, ...]) -> tuple[FrameworkEntry, ...]:
        return tuple(entries.get((*path, index), entry) for index, entry in enumerate(listed))

    includes = tuple(
        one
        if one.frameworks is None
        else one.model_copy(
            update={"frameworks": replaced(("include", number, "frameworks"), one.frameworks)}
        )
        for number, one in enumerate(file.include)
    )
    frameworks = replaced(("frameworks",), file.frameworks)
    return file.model_copy(update={"frameworks": frameworks, "include": includes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value laid over the sweep file; problems about it name `label`."""

    path: tuple[str, ...]
    value: Value
    label: str


def value_setting(text: str) -> Setting:
    """Read `measure.repeats=3`; UserError where there is no key or no `=`."""
    key, value = _split("-S", text)
    return Setting(path=tuple(key.split(".")), value=parse_scalar(value), label=f"-S {text}")


def axis_setting(text: str) -> Setting:
    """Read `topology=1n1g,1n2g`; UserError where there is no key or no `=`."""
    key, values = _split("-P", text)
    listed = tuple(parse_scalar(value.strip()) for value in values.split(","))
    return Setting(path=(key,), value=listed, label=f"-P {text}")


def apply_settings(document: Document, settings: tuple[Setting, ...]) -> Document:
    """The document with the settings laid over it, the last one on top."""
    for setting in settings:
        document = document.with_value(setting.path, setting.value, label=setting.label)
    return document


def _split(option: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key.strip() or not separator:
        raise UserError(f"{option} {text}: write key=value, such as {option} batch_size_per_device=64")
    return key.strip(), value.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep file with its experiments, valid each for itself.

    `documents` are the files as written, the sweep's first; `settings` came from the command line and are
    already part of `file`. `origins` says of which versions, by `name==version`, a wheel or an index is the
    origin; `file` names them by their labels.
    """

    name: str
    file: SweepFile
    experiments: dict[str, ExperimentFile]
    origins: dict[str, Origin] = field(default_factory=dict)
    documents: tuple[Document, ...]
    settings: tuple[Setting, ...] = ()


def load_sweep(
    name: str,
    *,
    adapters: Mapping[str, Adapter],
    settings: tuple[Setting, ...] = (),
    folder: Path | None = None,
) -> Sweep:
    """Load the sweep `name`, as seen from `folder` (default: the working directory).

    Raises:
        UserError: there is no such sweep.
        SourceErrors: every problem in the sweep file and the experiment files that it names.
    """
    folder = (folder or Path.cwd()).absolute()
    path = find_file("sweep", name, folders=(folder,))
    document = read_document(path, shown=shown(path, folder=folder))
    return checked_sweep(document, path=path, adapters=adapters, settings=settings, folder=folder)


def checked_sweep(
    document: Document,
    *,
    path: Path,
    adapters: Mapping[str, Adapter],
    settings: tuple[Setting, ...] = (),
    folder: Path,
) -> Sweep:
    """The sweep of a document; `path` gives its name and the project whose experiments it finds.

    Raises:
        SourceErrors: every problem in it and in the experiment files that it names.
    """
    loading = _Loading(folder=folder, sweep_path=path, document=apply_settings(document, settings))
    file, problems = validate(SweepFile, loading.document, context={"frameworks": adapters})
    experiments = loading.experiments()
    problems += [*document.problems, *_option_problems(loading.document, adapters), *loading.problems]
    origins: dict[str, Origin] = {}
    if file is not None and not problems:
        file, origins, found = with_origins(file, folder=path.absolute().parent, adapters=adapters)
        problems = at_places(found, loading.document)
    if file is not None and not problems:
        problems = sweep_problems(file, experiments, document=loading.document, adapters=adapters)
    if file is not None and not problems and not settings:
        # Values from the command line may rightly leave an exclusion without a cell; a file may not.
        problems = grid_problems(file, experiments, document=loading.document, adapters=adapters)
    if file is None or problems:
        raise SourceErrors(problems)
    return Sweep(
        name=path.stem,
        file=file,
        experiments=experiments,
        origins=origins,
        documents=(document, *loading.read),
        settings=settings,
    )


def load_experiment(name: str, *, folder: Path | None = None) -> tuple[ExperimentFile, Document]:
    """Load the experiment `name`; raises like `load_sweep`."""
    folder = (folder or Path.cwd()).absolute()
    experiment, document, problems = _read_experiment(
        find_file("experiment", name, folders=(folder,)), folder
    )
    if experiment is None or problems:
        raise SourceErrors(problems)
    return experiment, document


def _read_experiment(path: Path, folder: Path) -> tuple[ExperimentFile | None, Document, list[Problem]]:
    document = read_document(path, shown=shown(path, folder=folder))
    problems = list(document.problems)
    if "experiment" in document.data:
        at = document.keys[("experiment",)]
        problems.append(at.problem("the experiment's name is the file's name; remove this key"))
    named = document.with_value(("experiment",), path.stem, label=document.path)
    experiment, found = validate(ExperimentFile, named)
    return experiment, document, problems + found


@dataclass(kw_only=True)
class _Loading:
    """The experiments of one sweep; collects problems instead of stopping at the first."""

    folder: Path
    sweep_path: Path
    document: Document
    read: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def experiments(self) -> dict[str, ExperimentFile]:
        first_places: dict[str, KeyPath] = {}
        for name, path in _named_experiments(self.document):
            first_places.setdefault(name, path)
        loaded = {name: self._load(name, path) for name, path in first_places.items()}
        return {name: experiment for name, experiment in loaded.items() if experiment is not None}

    def _load(self, name: str, at: KeyPath) -> ExperimentFile | None:
        # A sweep in another project finds the experiments of that project too.
        folders = (self.folder, self.sweep_path.absolute().parent.parent)
        try:
            experiment, document, problems = _read_experiment(
                find_file("experiment", name, folders=folders), self.folder
            )
        except SourceErrors as error:
            self.problems.extend(error.problems)
            return None
        except UserError as error:
            self.problems.append(self.document.place(at).problem(str(error)))
            return None
        self.read.append(document)
        self.problems.extend(problems)
        return experiment


def _named_experiments(document: Document) -> list[tuple[str, KeyPath]]:
    """Every experiment that the file names, with the key path, whatever else is wrong with it."""
    named: list[tuple[str, KeyPath]] = []
    for path, value in _in_the_grids(document, "experiment"):
        items = (
            [((*path, index), item) for index, item in enumerate(value)] if isinstance(value, tuple) else []
        )
        named += [(item, place) for place, item in items or [(path, value)] if isinstance(item, str)]
    return named


def _in_the_grids(document: Document, key: str) -> Iterator[tuple[KeyPath, Value]]:
    """The values that the sweep and its includes give `key`, with their key paths."""
    includes = document.data.get("include")
    count = len(includes) if isinstance(includes, tuple) else 0
    for path in ((key,), *(("include", index, key) for index in range(count))):
        if path in document.values:
            yield path, document.at(path)


def _option_problems(document: Document, adapters: Mapping[str, Adapter]) -> list[Problem]:
    """Framework options that no adapter has, or that the adapter refuses."""
    problems: list[Problem] = []
    for path, options in _in_the_grids(document, "options"):
        for name, given in options.items() if isinstance(options, dict) else ():
            below = (*path, name)
            if name not in adapters:
                problems.append(document.keys[below].problem(unknown("framework", name, adapters)))
                continue
            try:
                adapters[name].options.model_validate(given)
            except ValidationError as error:
                found = problems_of(error, model=adapters[name].options, document=document, below=below)
                problems.extend(found)
    return problems


SHOWN = "dlperf limit"


def limit_document(values: Mapping[str, Value]) -> Document:
    """The sweep file that says the same as the options; problems in it name the command."""
    content = {name: _plain(value) for name, value in values.items()}
    return parse_document(f"# Made by {SHOWN}.\n{yaml.safe_dump(content, sort_keys=False)}", shown=SHOWN)


def _plain(value: Value) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
