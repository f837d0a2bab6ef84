"""Finding things: `dlperf list`, `init`, `docs`, the nearest word, and what a shell offers at Tab."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlperf.cli import main
from dlperf.cli.listing import headline

ROOT = Path(__file__).parents[2]
KINDS = ("frameworks", "versions", "options", "experiments", "sweeps", "clusters", "dialects", "reports")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert 0 == result.exit_code, result.output
    return result.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_as_a_table_and_as_json(kind: str) -> None:
    rows = json.loads(run("list", kind, "--json"))
    assert rows
    for row in rows:
        first, *others = row.values()
        assert first in run("list", kind)
        assert any(others), f"nothing is said of {first}"


def test_a_file_of_the_user_comes_first_and_its_comment_says_what_it_is() -> None:
    Path("sweeps").mkdir()
    Path("sweeps/quickstart.yaml").write_text("# Mine. And more.\nexperiment: quickstart\n")
    (row,) = [row for row in json.loads(run("list", "sweeps", "--json")) if row["sweep"] == "quickstart"]
    assert {"sweep": "quickstart", "what it is": "Mine.", "file": "sweeps/quickstart.yaml"} == row


def test_a_line_for_the_editor_is_no_headline(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# yaml-language-server: $schema=../sweep.schema.json\n# Mine. And more.\n")
    assert "Mine." == headline(path)


def test_a_file_without_a_comment_has_no_headline(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("experiment: x\n")
    assert ["", ""] == [headline(tmp_path / "bare.yaml"), headline(tmp_path / "absent.yaml")]


def test_options_are_listed_with_their_values() -> None:
    rows = json.loads(run("list", "options", "--json"))
    values = {(row["framework"], row["option"]): row["values"] for row in rows}
    assert "true or false" == values["pytorch", "compile"]
    assert "number or dynamic" == values["mxnet", "loss_scale"]


def test_what_init_writes_is_planned_as_it_is() -> None:
    assert "dlperf plan faces" in run("init", "faces")
    assert "2 runnable" in run("plan", "faces")


def test_init_overwrites_nothing() -> None:
    Path("sweeps").mkdir()
    Path("sweeps/mine.yaml").write_text("precious")
    result = CliRunner().invoke(main, ["init"])
    assert (2, "precious") == (result.exit_code, Path("sweeps/mine.yaml").read_text())
    assert "sweeps/mine.yaml exists" in result.stderr
    assert not Path("experiments").exists()


@pytest.mark.parametrize("name", ["a/b", "..", "a b", ""])
def test_init_refuses_what_is_no_name(name: str) -> None:
    result = CliRunner().invoke(main, ["init", name])
    assert (2, []) == (result.exit_code, list(Path().iterdir()))


def test_every_page_of_the_documentation_is_listed_and_printed() -> None:
    listed = [line.split()[0] for line in run("docs").splitlines()]
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert [str(page.relative_to(ROOT / "docs").with_suffix("")) for page in pages] == listed
    for page, name in zip(pages, listed, strict=True):
        assert page.read_text() == run("docs", name)
    assert run("docs", "sweeps") == run("docs", "docs/sweeps.md")


def test_a_page_that_is_not_there_gets_the_nearest() -> None:
    result = CliRunner().invoke(main, ["docs", "sweep"])
    assert 2 == result.exit_code
    assert "did you mean 'sweeps'?" in result.stderr


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["plna"], "'plan'"),
        (["env", "lsit"], "'list'"),
        (["list", "sweps"], "'sweeps'"),
        (["schema", "swep"], "'sweep'"),
        (["plan", "quickstart", "--format", "jsn"], "'json'"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(words: list[str], nearest: str) -> None:
    result = CliRunner().invoke(main, words)
    assert 2 == result.exit_code
    assert f"id you mean {nearest}" in result.stderr


def completions(*words: str) -> list[str]:
    """What bash would offer for the last of the words."""
    variables = {
        "_DLPERF_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("dlperf", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(main, [], prog_name="dlperf", env=variables)
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["run", "r100_e"], ["r100_e", "r100_emore"]),  # the first asks bash for files
        (["plan", "quickstart", "--cluster", "ex"], ["ex", "example"]),
        (["align", "y1"], ["y1", "y1_emore"]),
        (["env", "create", "oneflow="], ["oneflow==0.9.0", "oneflow==0.8.0"]),
        (["align", "x", "--frameworks", "mxnet,pyt"], ["mxnet,pytorch", "mxnet,pytorch==2.13.0"]),
        (["plan", "x", "--only", "par"], ["parallelism="]),
        (["parse", "x", "--dialect", "a"], ["auto", "arcface_paddle", "arcface_torch"]),
        (["list", "sw"], ["sweeps"]),
    ],
)
def test_a_shell_completes_names(words: list[str], offered: list[str]) -> None:
    assert offered == completions(*words)


def test_a_shell_completes_the_cases_of_a_results_folder() -> None:
    shutil.copytree(ROOT / "evidence/quickstart", "results/quickstart")
    found = completions("show", "mxnet-")
    assert ["mxnet-1.9.1_quickstart_data_1n1g"] == [case.partition("_b8")[0] for case in found]
    assert [] == completions("show", "nothing-of-this-name")
