"""Sweep and experiment files by name -> a checked Sweep, or every problem found in them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf.errors import Problem, SourceErrors, UserError
from dlperf.plan.checks import at_places, grid_problems, sweep_problems
from dlperf.plan.experiment_file import ExperimentFile
from dlperf.plan.files import find_file, shown
from dlperf.plan.origins import with_origins
from dlperf.plan.settings import apply_settings
from dlperf.plan.sweep_file import SweepFile
from dlperf.plan.validation import problems_of, unknown, validate
from dlperf.plan.yaml_reader import read_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlperf.adapters.base import Adapter
    from dlperf.plan.document import Document, KeyPath
    from dlperf.plan.origin import Origin
    from dlperf.plan.settings import Setting


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
        loaded: dict[str, ExperimentFile] = {}
        seen: set[str] = set()
        for name, path in _named_experiments(self.document):
            if name in seen:
                continue
            seen.add(name)
            experiment = self._load(name, path)
            if experiment is not None:
                loaded[name] = experiment
        return loaded

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
    spots: list[KeyPath] = [("experiment",)]
    includes = document.data.get("include")
    if isinstance(includes, tuple):
        spots += [("include", index, "experiment") for index, _ in enumerate(includes)]
    named: list[tuple[str, KeyPath]] = []
    for spot in spots:
        if spot not in document.values:
            continue
        value = document.at(spot)
        listed = (
            [(item, (*spot, index)) for index, item in enumerate(value)] if isinstance(value, tuple) else []
        )
        named += [(item, path) for item, path in listed or [(value, spot)] if isinstance(item, str)]
    return named


def _option_problems(document: Document, adapters: Mapping[str, Adapter]) -> list[Problem]:
    """Framework options that no adapter has, or that the adapter refuses."""
    spots: list[KeyPath] = [("options",)]
    includes = document.data.get("include")
    if isinstance(includes, tuple):
        spots += [("include", index, "options") for index, _ in enumerate(includes)]
    problems: list[Problem] = []
    for spot in spots:
        options = document.at(spot) if spot in document.values else None
        for name, given in options.items() if isinstance(options, dict) else ():
            below = (*spot, name)
            if name not in adapters:
                problems.append(document.keys[below].problem(unknown("framework", name, adapters)))
                continue
            try:
                adapters[name].options.model_validate(given)
            except ValidationError as error:
                found = problems_of(error, model=adapters[name].options, document=document, below=below)
                problems.extend(found)
    return problems
