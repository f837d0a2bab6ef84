"""Sweep and experiment files by name -> a checked Sweep, or every problem found in them at once."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from dlperf.adapters.base import Adapter
from dlperf.errors import Problem, SourceErrors, UserError
from dlperf.plan.case import DataSet
from dlperf.plan.checks import sweep_problems
from dlperf.plan.data_sets import with_data
from dlperf.plan.documents import (
    Document,
    KeyPath,
    Value,
    find_file,
    parse_scalar,
    problems_of,
    read_document,
    require_kind,
    shown,
    unknown,
    validate,
)
from dlperf.plan.sources import ProgramFiles, missing, resolve
from dlperf.plan.sweep import DataEntry, ExperimentFile, FrameworkEntry, SourceEntry, SweepFile
from dlperf.plan.versions import Origin, read_find_links, read_wheel

# A framework and where the files of its program are: the same checkout may serve several frameworks.
SourceKey = tuple[str, SourceEntry]


def origin_of(entry: FrameworkEntry, *, folder: Path, adapter: Adapter) -> Origin | None:
    """Where a framework's version comes from; None where the adapter says it. `folder`: of relative paths.

    ValueError where the wheel or the folder is not there, or the wheel not one that the adapter can use.
    """
    if entry.wheel is not None:
        return read_wheel(entry.wheel, folder=folder, adapter=adapter)
    if entry.find_links is not None:
        place = read_find_links(entry.find_links, folder=folder)
        return Origin(version=str(entry.version), find_links=place)
    return None if entry.index is None else Origin(version=str(entry.version), index=entry.index)


def _with_origins(
    file: SweepFile, *, folder: Path, adapters: Mapping[str, Adapter]
) -> tuple[SweepFile, dict[str, Origin], list[tuple[KeyPath, str]]]:
    """The sweep with each version from elsewhere under its label; the origins by `name==label`; problems."""
    origins: dict[str, Origin] = {}
    problems: list[tuple[KeyPath, str]] = []

    def labelled(entry: FrameworkEntry, at: KeyPath) -> FrameworkEntry:
        try:
            origin = origin_of(entry, folder=folder, adapter=adapters[entry.name])
        except ValueError as error:
            problems.append(((*at, "wheel" if entry.wheel else "find_links"), str(error)))
            return entry
        if origin is None:
            return entry
        found = entry.model_copy(update={"version": origin.label})
        origins[str(found)] = origin
        return found

    return file.with_frameworks(labelled), origins, problems


def _with_sources(
    file: SweepFile, *, folder: Path, adapters: Mapping[str, Adapter], given: Mapping[str, Path]
) -> tuple[SweepFile, dict[SourceKey, ProgramFiles], list[tuple[KeyPath, str]]]:
    """The sweep with a source for each framework that needs one; the files of each; problems.

    A checkout that is `given` for a framework takes the place of the file's. What an include leaves out is
    that of the same framework in the grid.
    """
    found: dict[SourceKey, ProgramFiles] = {}
    problems: list[tuple[KeyPath, str]] = []
    sources = {entry.name: entry.source for entry in reversed(file.frameworks)}

    def with_source(entry: FrameworkEntry, at: KeyPath) -> FrameworkEntry:
        adapter, source = adapters[entry.name], entry.source
        if at[0] == "include" and source is None:
            versions = {known.version for known in file.frameworks if known.name == entry.name}
            if entry.version in versions or (versions and entry.version is None):
                return entry  # the grid's own entries stand for it
            source = sources.get(entry.name)
        if entry.name in given:
            source = SourceEntry(path=str(given[entry.name]))
        if source is None and adapter.source is not None:
            problems.append((at, missing(adapter)))
        if source is None:
            return entry
        if (entry.name, source) not in found:
            try:
                found[entry.name, source] = resolve(source, adapter=adapter, folder=folder)
            except ValueError as error:
                if entry.name in given:
                    raise UserError(f"--source {entry.name}: {error}") from None
                problems.append(((*at, "source"), str(error)))
        return entry.model_copy(update={"source": source})

    return file.with_frameworks(with_source), found, problems


def checkouts_of(texts: Iterable[str], *, adapters: Mapping[str, Adapter]) -> dict[str, Path]:
    """Read `insightface_mxnet=/path/to/checkout` of --source; UserError where one is wrong."""
    found = {}
    for text in texts:
        name, path = split_pair("--source", text, example="insightface_mxnet=/path/to/checkout")
        if name not in adapters:
            raise UserError(f"--source {text}: {unknown('framework', name, adapters)}")
        if adapters[name].source is None:
            raise UserError(f"--source {text}: {name} trains a loop of its own and takes no source")
        found[name] = Path(path).expanduser().absolute()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value laid over the sweep file; problems about it name `label`."""

    path: tuple[str, ...]
    value: Value
    label: str


def value_setting(text: str) -> Setting:
    """Read `measure.repeats=3`; UserError where there is no key or no `=`."""
    key, value = split_pair("-S", text, example="measure.repeats=3")
    return Setting(path=tuple(key.split(".")), value=parse_scalar(value), label=f"-S {text}")


def axis_setting(text: str) -> Setting:
    """Read `topology=1n1g,1n2g`; UserError where there is no key or no `=`."""
    key, values = split_pair("-P", text, example="topology=1n1g,1n2g")
    listed = tuple(parse_scalar(value.strip()) for value in values.split(","))
    return Setting(path=(key,), value=listed, label=f"-P {text}")


def split_pair(option: str, text: str, *, example: str) -> tuple[str, str]:
    """`key=value` as the two; UserError, which names `option`, where it is none."""
    key, separator, value = text.partition("=")
    if not key.strip() or not separator:
        raise UserError(f"{option} {text}: write key=value, such as {option} {example}")
    return key.strip(), value.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep file with its experiments, valid each for itself."""

    name: str
    file: SweepFile  # with the settings; names versions from elsewhere by their labels
    experiments: dict[str, ExperimentFile]
    origins: dict[str, Origin] = field(default_factory=dict)  # of versions from elsewhere, by `name==label`
    data_sets: dict[DataEntry, DataSet] = field(default_factory=dict)  # as they are now
    program_sources: dict[SourceKey, ProgramFiles] = field(default_factory=dict)  # likewise
    documents: tuple[Document, ...]  # as written, the sweep's first
    settings: tuple[Setting, ...] = ()  # from the command line


def load_sweep(
    name: str,
    *,
    adapters: Mapping[str, Adapter],
    settings: tuple[Setting, ...] = (),
    checkouts: Mapping[str, Path] | None = None,
    data: Path | None = None,
    folder: Path | None = None,
) -> Sweep:
    """Load the sweep `name`, as seen from `folder` (default: the working directory).

    `checkouts` are sources by framework, and `data` is a data set, which take the place of the file's.
    UserError where there is no such sweep; SourceErrors holds every problem in it and in its experiments.
    """
    folder = (folder or Path.cwd()).absolute()
    path = find_file("sweep", name, folders=(folder,))
    document = read_document(path, shown=shown(path, folder=folder))
    require_kind(document, "sweep")
    return checked_sweep(
        document,
        path=path,
        adapters=adapters,
        settings=settings,
        checkouts=checkouts,
        data=data,
        folder=folder,
    )


def checked_sweep(
    document: Document,
    *,
    path: Path,
    adapters: Mapping[str, Adapter],
    settings: tuple[Setting, ...] = (),
    checkouts: Mapping[str, Path] | None = None,
    data: Path | None = None,
    folder: Path,
) -> Sweep:
    """The sweep of a document; `path` gives its name and the project whose experiments it finds.

    SourceErrors as of `load_sweep`.
    """
    laid_over = document
    for setting in settings:
        laid_over = laid_over.with_value(setting.path, setting.value, label=setting.label)
    file, problems = validate(SweepFile, laid_over, context={"frameworks": adapters})
    home = path.absolute().parent
    # A sweep in another project finds the experiments of that project too.
    experiments, sources, missing = _experiments(laid_over, folder=folder, project=home.parent)
    problems += [*document.problems, *_option_problems(laid_over, adapters), *missing]
    if file is None or problems:
        raise SourceErrors(problems)

    def require_none(found: list[tuple[KeyPath, str]]) -> None:
        if found:
            raise SourceErrors([laid_over.problem(at, message) for at, message in found])

    file, origins, found = _with_origins(file, folder=home, adapters=adapters)
    require_none(found)
    checkouts = checkouts or {}
    _must_be_named(checkouts, file)
    file, program_sources, found = _with_sources(file, folder=home, adapters=adapters, given=checkouts)
    require_none(found)
    file, data_sets, found = with_data(file, document=laid_over, folder=home, cwd=folder, given=data)
    require_none(found)
    require_none(sweep_problems(file, experiments, adapters=adapters, as_written=not settings))
    return Sweep(
        name=path.stem,
        file=file,
        experiments=experiments,
        origins=origins,
        data_sets=data_sets,
        program_sources=program_sources,
        documents=(document, *sources),
        settings=settings,
    )


def _must_be_named(checkouts: Mapping[str, Path], file: SweepFile) -> None:
    """UserError where --source names a framework that the sweep does not."""
    named = {
        entry.name
        for entries in (file.frameworks, *(include.frameworks or () for include in file.include))
        for entry in entries
    }
    for name in checkouts:
        if name not in named:
            raise UserError(f"--source {name}: this sweep does not name {name}; it has {', '.join(named)}")


def load_experiment(
    name: str, *, folder: Path | None = None, project: Path | None = None
) -> tuple[ExperimentFile, Document]:
    """Load the experiment `name`, also looked for in `project`; raises like `load_sweep`."""
    folder = (folder or Path.cwd()).absolute()
    path = find_file("experiment", name, folders=(folder, *([project] if project else [])))
    document = read_document(path, shown=shown(path, folder=folder))
    require_kind(document, "experiment")
    named = document.with_value(("experiment",), path.stem, label=document.path)
    experiment, problems = validate(ExperimentFile, named)
    if "experiment" in document.data:
        at = document.keys[("experiment",)]
        problems.append(at.problem("the experiment's name is the file's name; remove this key"))
    problems += document.problems
    if experiment is None or problems:
        raise SourceErrors(problems)
    return experiment, document


def _experiments(
    document: Document, *, folder: Path, project: Path
) -> tuple[dict[str, ExperimentFile], list[Document], list[Problem]]:
    """Every experiment that a sweep names, whatever else is wrong with it; their files; their problems."""
    experiments: dict[str, ExperimentFile] = {}
    sources: list[Document] = []
    problems: list[Problem] = []
    for name, path in _named_experiments(document).items():
        try:
            experiments[name], source = load_experiment(name, folder=folder, project=project)
            sources.append(source)
        except SourceErrors as error:
            problems.extend(error.problems)
        except UserError as error:
            problems.append(document.place(path).problem(str(error)))
    return experiments, sources, problems


def _named_experiments(document: Document) -> dict[str, KeyPath]:
    """The names of the experiments, each with the key path at which it stands first."""
    named: dict[str, KeyPath] = {}
    for path, value in _in_the_grids(document, "experiment"):
        items = enumerate(value) if isinstance(value, tuple) else [("", value)]
        for index, item in items:
            if isinstance(item, str):
                named.setdefault(item, (*path, index))
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
                place = document.keys.get(below) or document.place(below)
                problems.append(place.problem(unknown("framework", name, adapters)))
                continue
            try:
                adapters[name].options.model_validate(given)
            except ValidationError as error:
                found = problems_of(error, model=adapters[name].options, document=document, below=below)
                problems.extend(found)
    return problems
