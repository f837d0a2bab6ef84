"""Files and values that people get wrong: one line each that says what, where and what to do."""

# ruff: noqa: E501, ISC004, S311 - a message is one text; damage needs no secret

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from property_tests import at_most

from dlperf.cli import main

ROOT = Path(__file__).parents[2]
SWEEP = """\
experiment: quickstart
frameworks: [mxnet==1.9.1]
topology: 1n1g
batch_size_per_device: 8
"""
CLUSTER = "nodes: [a]\ndevices: 1\ncores: 1\n"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*words: str) -> str:
    """What a command says that refuses wrong input."""
    result = CliRunner().invoke(main, list(words))
    assert (2, "") == (result.exit_code, result.stdout), result.output
    return result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("8", "Max", "s.yaml:4:24: batch_size_per_device: must be a whole number, not text 'Max'; where the "
         "largest is searched for, write it in small letters: max"),
        ("mxnet==", "mxnet=", "s.yaml:2:14: frameworks[0]: 'mxnet=1.9.1' is not a framework; write "
         "name==version, such as 'mxnet==1.9.1'"),
        ("[mxnet==1.9.1]", "", "s.yaml:2:12: frameworks: has no value; write one, or remove the key"),
        ("frameworks", "\tframeworks", "s.yaml:2:1: a tab indents this line; use spaces"),
        ("8", "1" + 20 * "0", "s.yaml:4:24: batch_size_per_device: must be less than or equal to 2147483647, "
         "not 1" + 20 * "0"),
        ("8\n", "8\nexclude: [{when: {framework: mxnet}, why: ''}]\n", "s.yaml:5:43: exclude[0].why: must not "
         "be empty"),
        ("8", "!!str 8", "s.yaml:4:24: tags such as '!!str' are not allowed"),
    ],
)  # fmt: skip
def test_a_sweep_is_told_where_and_what(old: str, new: str, message: str) -> None:
    Path("s.yaml").write_text(SWEEP.replace(old, new, 1))
    assert message in refused("plan", "s.yaml").splitlines()


def test_spaces_around_the_equals_signs_do_not_matter() -> None:
    Path("s.yaml").write_text(SWEEP.replace("mxnet==", "mxnet == "))
    assert 0 == CliRunner().invoke(main, ["plan", "s.yaml"]).exit_code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [1]\n", "c.yaml:1:9: nodes[0]: must be a host name, or a mapping with 'name', not 1"),
        (CLUSTER + "device: 8\n", "c.yaml:4:9: device: must be cpu or cuda, not 8; how many a node has is the "
         "key 'devices'"),
        (CLUSTER + "interface: eth0;reboot\n", "c.yaml:4:12: interface: 'eth0;reboot' is not the name of a "
         "network interface, such as 'ib0'"),
        (CLUSTER + "folder: scratch\n", "c.yaml:4:9: folder: 'scratch' is relative; write where it lies on the "
         "node, such as '/scratch'"),
    ],
)  # fmt: skip
def test_a_cluster_is_told_where_and_what(text: str, message: str) -> None:
    Path("c.yaml").write_text(text)
    assert message in refused("plan", "quickstart", "--cluster", "c.yaml").splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "experiments/quickstart.yaml"], "is an experiment, not a sweep; name it in a sweep: "
         "'experiment: NAME'"),
        (["plan", "clusters/example.yaml"], "is a cluster, not a sweep; run a sweep on it: dlperf run SWEEP --cluster FILE"),
        (["cluster", "check", "sweeps/quickstart.yaml"], "is a sweep, not a cluster; run it: dlperf run FILE"),
        (["align", "sweeps/quickstart.yaml"], "is a sweep, not an experiment; run it: dlperf run FILE"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_told_as_that(words: list[str], message: str) -> None:
    file = ROOT / words[-1]
    assert f"{file}: {message}\n" == refused(*words[:-1], str(file))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", ""], "dlperf: the name of a sweep is empty; `dlperf list sweeps` shows what there is"),
        (["plan", "quickstart", "-S", "options.pytroch.x=1"], "-S options.pytroch.x=1: unknown framework 'pytroch' (did "
         "you mean 'pytorch'?)"),
        (["run", "quickstart", "--memory", "many"], "--memory=many: memory: 'many' is not a size; write a whole "
         "number with KiB, MiB, GiB or TiB, such as '2GiB'"),
        (["env", "create", "pytorch", "--python", "/nope"], "dlperf: --python: /nope is not an executable"),
        (["run", "quickstart", "--dry-run", "--parallel-nodes", "2"], "Error: --parallel-nodes needs --cluster"),
    ],
)  # fmt: skip
def test_an_option_is_told_by_its_name(words: list[str], message: str) -> None:
    assert message in refused(*words).splitlines()


def test_damaged_files_give_messages_with_a_place_and_no_traceback() -> None:
    """Files, each a shipped one with a few bytes lost, doubled or replaced."""
    random_ = random.Random(16)
    kinds = {
        "sweeps": ["plan"],
        "experiments": ["align", "--frameworks", "x"],
        "clusters": ["plan", "quickstart", "--cluster"],
    }
    files = [(words, path) for kind, words in kinds.items() for path in sorted((ROOT / kind).glob("*.yaml"))]
    for number in range(max(len(files), at_most(200))):
        words, path = files[number % len(files)]
        content = list(path.read_text())
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(content))
            content[at : at + random_.randint(0, 3)] = random_.choice(
                [[], ["\t"], [content[at]] * 2, ["["], [": "], ["\0"], ["é"]]
            )
        Path("damaged.yaml").write_text("".join(content))
        result = CliRunner().invoke(main, [*words, "damaged.yaml"])
        assert result.exit_code in {0, 2}, result.output
        assert "internal error" not in result.stderr
        if result.exit_code == 2 and "damaged.yaml" not in result.stderr:
            assert result.stderr.startswith("dlperf: "), result.stderr
