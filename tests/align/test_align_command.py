"""`dlperf align`: what is refused before anything is written, who is asked, and what is left behind."""

import os
import subprocess
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dlperf.adapters.registry import load_adapters
from dlperf.align.participants import ON_ONE_DEVICE, Framework, participants_of
from dlperf.cli import main
from dlperf.cli.align import frameworks_of
from dlperf.errors import EnvironmentUnavailable, UserError
from dlperf.plan.versions import sha256_of

ADAPTERS: Any = load_adapters()
WHEEL = "mxnet-1.9.2-py3-none-any.whl"


def asked(frameworks: str | None, *pythons: str, device: Any = "cpu") -> Sequence[Framework]:
    return frameworks_of(frameworks, pythons, adapters=ADAPTERS, device=device, parallel=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a wheel in it."""
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as archive:
        archive.writestr("mxnet-1.9.2.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLPERF_HOST_LOCK", str(tmp_path / "host.lock"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--parallelism", "modle"], "--parallelism: unknown parallelism 'modle' (did you mean 'model'?)"),
        (
            ["--topology", "2g"],
            "--topology: '2g' is not a topology; write nodes and devices per node, such as '2n8g'",
        ),
        (["--frameworks", "mxnet"], "--frameworks: give two or more different frameworks or versions"),
        (["--frameworks", "mxnet,mxnet==1.9.1"], "--frameworks: one of them is given twice"),
        (["--frameworks", ""], "--frameworks: '' is not a framework; write name==version, such as"),
        (["--frameworks", "mxnet==,pytorch"], "--frameworks: 'mxnet==' is not a framework"),
        (["--frameworks", "mxnet,torch"], "--frameworks: unknown framework 'torch'"),
        (["--frameworks", "mxnet==9,pytorch"], "--frameworks: mxnet 9 is unknown; known versions: 1.9.1"),
        (["--frameworks", "mxnet @ no.whl,pytorch"], "--frameworks: there is no file "),
        (["--python", "mxnet"], "--python: 'mxnet' is no NAME=PATH; write mxnet=/path/to/python"),
        (["--frameworks", "oneflow,pytorch", "--python", "mxnet=/x"], "--python: mxnet is not among the"),
        (["--reference", "always", "--frameworks", "mxnet,oneflow"], "--reference always: pytorch computes"),
        (["--reference", "auto", "--frameworks", "pytorch"], "or pytorch alone with --reference always"),
        (
            ["--precision", "fp16", "--frameworks", "mxnet,pytorch"],
            "--precision fp16: only pytorch is aligned in it; take --frameworks pytorch --reference always",
        ),
        (
            ["--topology", "1n4g", "--parallelism", "model", "--num-classes", "3"],
            "--num-classes: 3 cannot be split over 4 devices; take more",
        ),
        (
            ["--out", "results/y1/align.json"],
            "results/y1/align.json: --out takes the folder for align.json: --out results/y1",
        ),
        (["--out", WHEEL], f"{WHEEL}: File exists; choose another folder with --out DIR"),
        (
            ["--frameworks", "pytorch==2.14.0 @ http://host/simple,mxnet"],
            "--frameworks: pytorch==2.14.0: is not encrypted",
        ),
        (["--tolerance", "nan"], "Invalid value for '--tolerance': nan is no finite number."),
        (["--sample-ratio", "nan"], "Invalid value for '--sample-ratio': nan is no finite number."),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_written(
    folder: Path, words: list[str], complaint: str
) -> None:
    done = CliRunner().invoke(main, ["align", "y1_emore", *words])

    assert 2 == done.exit_code, done.output
    assert complaint in done.stderr
    assert [WHEEL] == [path.name for path in folder.iterdir()]


def test_a_folder_that_no_alignment_left_is_not_replaced(folder: Path) -> None:
    precious = folder / "results" / "align" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")

    done = CliRunner().invoke(main, ["align", "y1_emore", "--keep", "--out", "results"])

    assert 2 == done.exit_code
    assert (
        "results/align is not a folder of an alignment; remove it, or choose another --out DIR" in done.stderr
    )
    assert "mine" == precious.read_text()


def test_what_a_killed_alignment_left_goes_with_the_next_and_that_of_a_running_one_stays(
    folder: Path,
) -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    for number in (gone, str(os.getpid())):
        (folder / "out" / f".align-{number}-x").mkdir(parents=True)
    words = [
        "--frameworks",
        "mxnet,pytorch",
        "--python",
        "mxnet=/bin/false",
        "--python",
        "pytorch=/bin/false",
    ]

    done = CliRunner().invoke(main, ["align", "y1_emore", "--out", "out", *words])

    assert 5 == done.exit_code
    assert "no framework to align: mxnet==1.9.1: " in done.stderr
    assert [f".align-{os.getpid()}-x"] == [path.name for path in (folder / "out").iterdir()]


def test_an_interpreter_that_is_not_there_is_told_before_anything_is_trained(folder: Path) -> None:
    words = ["--frameworks", "mxnet,pytorch", "--python", "mxnet=/nope"]
    done = CliRunner().invoke(main, ["align", "y1_emore", "--out", "out", *words])
    assert (2, False) == (done.exit_code, (folder / "out").exists())
    assert "--python: /nope is not an executable; name a Python that has mxnet" in done.stderr


def test_every_framework_takes_part_in_its_first_version() -> None:
    named = [one.name for one in asked(None)]
    assert ["jax==0.10.2", "mxnet==1.9.1", "oneflow==0.9.0", "pytorch==2.13.0"] == named


def test_a_wheel_is_a_version_beside_the_published_one(folder: Path) -> None:
    published, own = asked(f"mxnet, mxnet @ {WHEEL}")

    digest = sha256_of(folder / WHEEL)
    assert ("mxnet==1.9.1", f"mxnet==1.9.2+wheel.{digest[:8]}") == (published.name, own.name)
    assert own.spec.wheel is not None
    assert (str(folder / WHEEL), digest) == (own.spec.wheel.path, own.spec.wheel.sha256)


def test_a_version_of_an_index_comes_from_there() -> None:
    (nightly,) = asked("pytorch==2.14.0.dev20261101 @ https://nightly.example/simple")

    assert nightly.name.startswith("pytorch==2.14.0.dev20261101+index.")
    assert ("https://nightly.example/simple", "2.14.0.dev20261101") == (
        nightly.spec.index,
        nightly.spec.version,
    )


def test_a_secret_in_the_url_of_an_index_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="contains a user, password or token") as caught:
        asked("pytorch==2.14.0 @ https://me:hunter2@nightly.example/simple")

    assert "hunter2" not in str(caught.value)


def test_an_interpreter_of_ones_own_may_hold_a_version_that_dlperf_cannot_install() -> None:
    (own,) = asked("mxnet==1.5.1", "mxnet=python3")

    assert ("mxnet==1.5.1", "1.5.1", Path.cwd() / "python3") == (own.name, own.spec.version, own.python)


@pytest.mark.slow
@pytest.mark.engine
def test_who_cannot_be_installed_is_absent_with_the_reason_and_the_others_take_part(
    engine_python: Any,
) -> None:
    broken, sound = asked("mxnet,pytorch", "mxnet=/no/python", f"pytorch={engine_python('pytorch')}")

    with ExitStack() as held:
        participants, absent = participants_of(
            [broken, sound], [ON_ONE_DEVICE], held=held, say=lambda _: None
        )
        with pytest.raises(EnvironmentUnavailable, match="no framework to align: mxnet==1"):
            participants_of([broken], [ON_ONE_DEVICE], held=held, say=lambda _: None)

    assert ["pytorch==2.13.0"] == [one.name for one in participants]
    assert {"mxnet==1.9.1": "/no/python is not an executable; give the path of a Python with mxnet"} == absent
