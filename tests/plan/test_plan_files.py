"""A name means the user's file first, then the shipped one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.plan.documents import files_by_name, find_file, shown
from dlperf.plan.load import load_sweep

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = sorted(path.stem for path in shipped_folder("sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    "name",
    [
        "r100_emore",
        "r100_emore.yaml",
        "sweeps/r100_emore.yaml",
        "sweeps/r100_emore",
        "./sweeps/r100_emore.yaml",
    ],
)
def test_a_shipped_sweep_is_found_from_an_empty_folder(tmp_path: Path, name: str) -> None:
    assert shipped_folder("sweeps") / "r100_emore.yaml" == find_file("sweep", name, folders=(tmp_path,))


@pytest.mark.parametrize("name", ["r100_emore", "sweeps/r100_emore.yaml", "sweeps/r100_emore"])
def test_the_users_file_wins_over_the_shipped_one_of_the_same_name(tmp_path: Path, name: str) -> None:
    own = tmp_path / "sweeps" / "r100_emore.yaml"
    own.parent.mkdir()
    own.write_text("experiment: quickstart\n")
    assert own == find_file("sweep", name, folders=(tmp_path,))


def test_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    own = tmp_path / "deep" / "down" / "mine.yml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert own == find_file("sweep", "deep/down/mine.yml", folders=(tmp_path,))
    assert own == find_file("sweep", str(own), folders=(tmp_path / "elsewhere",))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r100_emor", "unknown sweep 'r100_emor' (did you mean 'r100_emore'?)"),
        ("zzz", f"unknown sweep 'zzz'; known: {', '.join(SHIPPED)}"),
        ("other/r100_emore.yaml", "unknown sweep 'other/r100_emore.yaml' (did you mean 'r100_emore'?)"),
        ("folder", "folder is a folder; name one sweep file in it"),
        ("sweep.json", "sweep.json: a sweep must be a YAML file; its name ends in .yaml or .yml"),
        ("", None),
        ("../sweeps/r100_emore.yaml", None),
    ],
)
def test_a_name_without_a_file_is_refused(tmp_path: Path, name: str, message: str | None) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "sweep.json").touch()
    with pytest.raises(UserError) as caught:
        find_file("sweep", name, folders=(tmp_path,))
    if message is not None:
        assert message == str(caught.value)


def test_the_known_names_are_the_users_and_the_shipped(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yml").touch()
    (tmp_path / "sweeps" / "notes.txt").touch()
    assert sorted(["mine", *SHIPPED]) == list(files_by_name("sweep", folders=(tmp_path,)))


def test_a_sweep_in_another_project_finds_that_projects_experiments(tmp_path: Path, adapters: Any) -> None:
    project = tmp_path / "project"
    for folder in ("sweeps", "experiments"):
        (project / folder).mkdir(parents=True)
    own = (shipped_folder("experiments") / "quickstart.yaml").read_text().replace("500", "77")
    (project / "experiments" / "mine.yaml").write_text(own)
    (project / "sweeps" / "s.yaml").write_text(
        "experiment: mine\nframeworks: mxnet\ntopology: 1n1g\nbatch_size_per_device: 2\n"
    )
    sweep = load_sweep(str(project / "sweeps" / "s.yaml"), adapters=adapters, folder=tmp_path)
    assert ("s", 77) == (sweep.name, sweep.experiments["mine"].num_classes)


def test_paths_are_shown_as_a_person_in_the_folder_writes_them(tmp_path: Path) -> None:
    assert "sweeps/a.yaml" == shown(tmp_path / "sweeps" / "a.yaml", folder=tmp_path)
    assert "/elsewhere/a.yaml" == shown(
        tmp_path.root / tmp_path.__class__("/elsewhere/a.yaml"), folder=tmp_path
    )
