"""The data sets that a sweep names: found, described, and told apart by their indexes."""

import hashlib
import os
from pathlib import Path
from typing import Literal, TypeVar

from dlperf.data.dataset import Description, describe
from dlperf.errors import UserError
from dlperf.plan.case import DataSet
from dlperf.plan.documents import Document, KeyPath
from dlperf.plan.sweep import Axes, DataEntry, SweepFile

AxesT = TypeVar("AxesT", bound=Axes)


def with_data(
    file: SweepFile, *, document: Document, folder: Path, cwd: Path, given: Path | None
) -> tuple[SweepFile, dict[DataEntry, DataSet], list[tuple[KeyPath, str]]]:
    """The sweep with absolute paths of its data sets; what each holds; problems.

    A path of the file is relative to `folder`, one from the command line to `cwd`. A folder that is `given`
    takes the place of every path. UserError where that one is no data set, or where the sweep reads none.
    """
    found: dict[DataEntry, DataSet] = {}
    problems: list[tuple[KeyPath, str]] = []
    names_one = False

    def resolved(axes: AxesT, at: KeyPath) -> AxesT:
        nonlocal names_one
        if axes.data is None:
            return axes
        entries: list[DataEntry | Literal["synthetic"]] = []
        for index, entry in enumerate(axes.data):
            if entry == "synthetic":
                entries.append(entry)
                continue
            names_one = True
            place = document.existing((*at, "data", index, "path"))
            written = document.place(place)
            base = cwd if written.line == 0 and written.path != document.path else folder
            path = given or (base / Path(entry.path).expanduser())
            full = entry.model_copy(update={"path": os.path.normpath(path.absolute())})
            try:
                found[full] = data_set(full)
            except UserError as error:
                if given is not None:
                    raise UserError(f"--data: {error}") from None
                problems.append((place, f"{error}; --data DIR names another"))
            entries.append(full)
        return axes.model_copy(update={"data": tuple(dict.fromkeys(entries))})

    changed = resolved(file, ())
    includes = tuple(resolved(include, ("include", number)) for number, include in enumerate(file.include))
    excludes = tuple(
        exclude.model_copy(update={"when": resolved(exclude.when, ("exclude", number, "when"))})
        for number, exclude in enumerate(file.exclude)
    )
    if given is not None and not names_one:
        raise UserError("--data: this sweep reads no data set; write data: {path: DIR} in it")
    return changed.model_copy(update={"include": includes, "exclude": excludes}), found, problems


def data_set(entry: DataEntry) -> DataSet:
    """What lies in the folder of an entry with an absolute path; UserError where it cannot be trained on."""
    held = describe(Path(entry.path))
    if held.images is None:
        raise UserError(
            f"{entry.path}: how many images its parts hold is known only after reading them; "
            "`dlperf data convert` writes parts with an index"
        )
    if held.classes is None:
        raise UserError(
            f"{entry.path}: its number of classes is not known; write a file `property` there with "
            "classes,height,width, such as 85742,112,112"
        )
    return DataSet(
        path=entry.path,
        read=entry.read,
        forms=held.forms,
        images=held.images,
        classes=held.classes,
        index_sha256=_index_sha256(held),
    )


def _index_sha256(held: Description) -> str:
    """Of the index of each form, by name."""
    forms = {"recordio": held.recordio, "ofrecord": held.ofrecord}
    lines = [f"{name}\t{form.index_sha256}\n" for name, form in forms.items() if form is not None]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
