"""Sources of original programs: found, refused, hashed, packed; of git repositories without running them."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dlperf.adapters.base import ProgramSource
from dlperf.errors import SourceErrors, UserError
from dlperf.plan.case import Source
from dlperf.plan.load import Sweep, checkouts_of, load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, cell_of, make_plan
from dlperf.plan.sources import MOST_FILE_BYTES, ProgramFiles, packed, resolve, unknown_commit
from dlperf.plan.sweep import SourceEntry

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import PaperAdapter

NEEDED = ProgramSource(
    engine="mxnet", url="https://example.com/paper.git", folders=("a", "b/c"), commits=("1234567",)
)


@dataclass
class Bench:
    """A folder with a checkout, a sweep of the framework `paper`, which needs it, and one that needs none."""

    folder: Path
    adapters: dict[str, Any]

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def adapter(self) -> Any:
        return self.adapters["paper"]

    def resolve(self, **entry: str) -> ProgramFiles:
        written = SourceEntry.model_validate(entry or {"path": "checkout"})
        return resolve(written, adapter=self.adapter, folder=self.folder)

    def digest(self) -> str:
        return self.resolve().source.content_hash

    def load(self, *frameworks: Any, given: dict[str, Path] | None = None, **keys: Any) -> Sweep:
        content = {
            "experiment": "quickstart", "frameworks": list(frameworks), "topology": "1n1g",
            "batch_size_per_device": 8, **keys,
        }  # fmt: skip
        (self.folder / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_sweep("s.yaml", adapters=self.adapters, folder=self.folder, checkouts=given)

    def plan(self, *frameworks: Any, **keys: Any) -> Plan:
        return make_plan(self.load(*frameworks, **keys), adapters=self.adapters, machine=Machine(cores=2))

    def problem(self, *frameworks: Any, **keys: Any) -> str:
        with pytest.raises(SourceErrors) as caught:
            self.load(*frameworks, **keys)
        return str(caught.value)

    def git(self, *words: str, at: Path | None = None) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", "-C", str(at or self.checkout), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        if not (self.checkout / ".git").exists():
            self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a", "--allow-empty")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def bench(tmp_path: Path, adapters: dict[str, PaperAdapter], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("DLPERF_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b/c", "d"):
        (tmp_path / "checkout" / name).mkdir(parents=True)
        (tmp_path / "checkout" / name / "one.py").write_text(f"print('{name}')\n")
    paper = replace(adapters["mxnet"], name="paper", source=NEEDED)
    return Bench(tmp_path, {**adapters, "paper": paper})


def test_the_case_carries_the_hash_of_what_the_program_needs(bench: Bench) -> None:
    (case,) = bench.plan({"name": "paper", "source": "checkout"}).runnable
    assert Source(engine="mxnet", content_hash=bench.digest()) == case.source
    first = bench.digest()
    (bench.checkout / "d" / "one.py").write_text("of no folder that counts")
    (bench.checkout / "a" / "__pycache__").mkdir()
    (bench.checkout / "a" / "__pycache__" / "one.pyc").write_bytes(b"compiled")
    (bench.checkout / "a" / "two.pyc").write_bytes(b"compiled")
    assert first == bench.digest()


@pytest.mark.parametrize("change", ["content", "name", "mode", "new", "moved bytes"])
def test_every_change_of_what_counts_changes_the_hash(bench: Bench, change: str) -> None:
    file, first = bench.checkout / "a" / "one.py", bench.digest()
    if change == "content":
        file.write_text("print('b')\n")
    elif change == "name":
        file.rename(file.with_name("two.py"))
    elif change == "mode":
        file.chmod(0o755)
    elif change == "new":
        file.with_name("empty").touch()
    else:
        (bench.checkout / "b" / "c" / "one.py").write_text(file.read_text())
        file.write_text("print('b/c')\n")
    assert first != bench.digest()


def test_a_case_s_id_knows_no_path_and_no_commit(bench: Bench) -> None:
    (before,) = bench.plan({"name": "paper", "source": "checkout"}).runnable
    commit = bench.commit()
    bench.checkout.rename(bench.folder / "moved")
    (after,) = bench.plan({"name": "paper", "source": "moved"}).runnable
    assert (before.case_id, commit) == (after.case_id, after.source and after.source.commit)


def test_an_original_program_stands_in_the_row_of_the_others(bench: Bench) -> None:
    cases = bench.plan({"name": "paper", "source": "checkout"}, "mxnet").runnable
    assert 1 == len({cell_of(case) for case in cases})


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("paper", "s.yaml:3:3: frameworks[0]: paper needs the files of the original program: write source: "),
        ({"name": "paper", "source": "nowhere"}, "nowhere is not there; name the folder of a checkout (git"),
        ({"name": "paper", "source": "s.yaml"}, "s.yaml is a file; name the folder of a checkout (git clone"),
        ({"name": "paper", "source": "checkout/a"}, "s.yaml:4:11: frameworks[0].source: "),
        ({"name": "paper", "source": "checkout/a"}, "checkout/a has no folder a; name the top of a checkout"),
        ({"name": "mxnet", "source": "checkout"}, "mxnet trains a loop of its own and takes no source"),
        ({"name": "paper", "source": {"git": "https://x.example/y"}}, "write path, or git with commit"),
        ({"name": "paper", "source": {"path": "a", "commit": "1234567"}}, "write path, or git with commit"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(bench: Bench, entry: Any, expected: str) -> None:
    found = bench.problem(entry)
    assert expected in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:hunter2@example.com/a.git", "contains a user, password or token"),
        ("https://hunter2@example.com/a.git", "contains a user, password or token"),
        ("https://example.com/a.git?token=hunter2", "contains a user, password or token"),
        ("http://example.com/a.git", "is not a repository"),
        ("ext::sh -c hunter2", "is not a repository"),
        ("ssh://-oProxyCommand=hunter2/a", "is not a repository"),
        ("https://[hunter2", "is not a repository"),
    ],
)
def test_a_url_is_checked_and_never_repeats_a_secret(bench: Bench, url: str, expected: str) -> None:
    found = bench.problem({"name": "paper", "source": {"git": url, "commit": "1234567"}})
    assert expected in found
    assert "hunter2" not in found


def test_an_include_takes_the_source_of_the_grid(bench: Bench) -> None:
    include = [{"frameworks": "paper==1.8.0", "batch_size_per_device": 4}]
    cases = bench.plan({"name": "paper", "source": "checkout"}, include=include).runnable
    assert [case.source for case in cases] == [bench.resolve().source] * 2
    (bench.folder / "other").symlink_to(bench.checkout)
    entries = [{"name": "paper", "source": name} for name in ("checkout", "other")]
    assert "appears twice" not in str(bench.load(*entries))


def test_a_checkout_of_the_command_line_wins(bench: Bench) -> None:
    given = checkouts_of([f"paper={bench.checkout}"], adapters=bench.adapters)
    sweep = bench.load({"name": "paper", "source": "nowhere"}, given=given)
    assert [bench.checkout] == [files.checkout for files in sweep.program_sources.values()]
    with pytest.raises(UserError, match=r"--source paper: this sweep does not name paper; it has mxnet"):
        bench.load("mxnet", given=given)
    with pytest.raises(UserError, match=r"--source paper: .*nowhere is not there"):
        bench.load("paper", given={"paper": bench.folder / "nowhere"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paper", "--source paper: write key=value, such as --source insightface_mxnet=/path/to/checkout"),
        ("papre=x", "--source papre=x: unknown framework 'papre' .did you mean 'paper'"),
        ("mxnet=x", "--source mxnet=x: mxnet trains a loop of its own"),
    ],
)
def test_a_source_option_that_means_nothing_is_refused(bench: Bench, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        checkouts_of([text], adapters=bench.adapters)


def test_what_is_neither_file_nor_folder_is_refused_by_name(bench: Bench) -> None:
    (bench.checkout / "a" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match=r"^a/link is a link; a source may hold files and folders alone$"):
        bench.resolve()
    (bench.checkout / "a" / "link").unlink()
    os.mkfifo(bench.checkout / "b" / "c" / "pipe")
    with pytest.raises(ValueError, match=r"^b/c/pipe is no regular file"):
        bench.resolve()
    (bench.checkout / "b" / "c" / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(bench.checkout / "a" / "s"))
        with pytest.raises(ValueError, match=r"^a/s is no regular file"):
            bench.resolve()


def test_a_folder_that_is_a_link_is_refused(bench: Bench) -> None:
    (bench.checkout / "a").rename(bench.folder / "secret")
    (bench.checkout / "a").symlink_to(bench.folder / "secret")
    with pytest.raises(ValueError, match=r"has no folder a"):
        bench.resolve()


def test_what_is_no_code_is_refused_by_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with (bench.checkout / "a" / "model.params").open("wb") as stream:
        stream.truncate(MOST_FILE_BYTES + 1)
    with pytest.raises(ValueError, match=r"^a/model.params is larger than 64 MiB; a source is code$"):
        bench.resolve()
    (bench.checkout / "a" / "model.params").unlink()
    monkeypatch.setattr("dlperf.plan.sources.MOST_FILES", 1)
    with pytest.raises(ValueError, match=r"^it has more than 1 files; is it the right folder"):
        bench.resolve()


def test_a_commit_is_told_and_whether_these_files_are_its_own(bench: Bench) -> None:
    commit = bench.commit()
    (bench.checkout / "d" / "one.py").write_text("of no folder that counts")
    assert commit == bench.resolve().source.commit
    assert unknown_commit(bench.resolve().source, bench.adapter) == (
        f"{commit} is not one of the commits known to run: 1234567"
    )
    known = replace(bench.adapter, source=replace(NEEDED, commits=(commit[:8],)))
    assert unknown_commit(bench.resolve().source, known) is None
    (bench.checkout / "a" / "new.py").touch()
    assert f"{commit}-dirty" == bench.resolve().source.commit
    assert unknown_commit(bench.resolve().source, known) == (
        f"the files of the source differ from its commit, {commit}"
    )


def test_a_checkout_s_own_configuration_runs_nothing(bench: Bench) -> None:
    bench.commit()
    ran = bench.folder / "ran"
    for key in ("core.fsmonitor", "filter.x.clean", "filter.x.smudge", "diff.external", "core.pager"):
        bench.git("config", key, f"touch {ran}; true")
    (bench.checkout / "a" / ".gitattributes").write_text("* filter=x\n")
    (bench.checkout / "a" / "one.py").write_text("changed\n")
    assert str(bench.resolve().source.commit).endswith("-dirty")
    assert not ran.exists()


def test_a_commit_of_a_repository_is_fetched_once(bench: Bench) -> None:
    commit, digest = bench.commit(), bench.digest()
    ran = bench.folder / "ran"
    (bench.checkout / ".git" / "hooks" / "post-checkout").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (bench.checkout / ".git" / "hooks" / "post-checkout").chmod(0o755)
    (bench.checkout / "a" / "one.py").write_text("print('later')\n")
    bench.commit()
    source = {"git": f"file://{bench.checkout}", "commit": commit}
    found = bench.resolve(**source)
    assert Source(engine="mxnet", content_hash=digest, commit=commit) == found.source
    assert not (found.checkout / ".git").exists()
    bench.checkout.rename(bench.folder / "gone")
    assert found == bench.resolve(**source)
    assert found == bench.resolve(**{**source, "commit": commit[:9]})
    assert not ran.exists()


def test_an_abbreviated_commit_is_found_and_another_is_not(bench: Bench) -> None:
    commit = bench.commit()
    url = f"file://{bench.checkout}"
    assert commit == bench.resolve(git=url, commit=commit[:7]).source.commit
    with pytest.raises(ValueError, match=r"the repository has no commit 0000000 in its branches"):
        bench.resolve(git=url, commit="0000000")
    with pytest.raises(ValueError, match=r"^git: "):
        bench.resolve(git=f"{url}-not", commit="0000000")
    leftovers = [path.name for path in (bench.folder / "cache" / "checkouts").iterdir() if path.is_dir()]
    assert 1 == len(leftovers)


def test_what_was_packed_is_what_was_planned(bench: Bench) -> None:
    (bench.checkout / "a" / "run.sh").write_text("#!/bin/sh\n")
    (bench.checkout / "a" / "run.sh").chmod(0o755)
    files = bench.resolve()
    folder = packed(files, folders=NEEDED.folders)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["a/one.py", "a/run.sh", "b/c/one.py"]
    assert os.access(folder / "a" / "run.sh", os.X_OK)
    assert not os.access(folder / "a" / "one.py", os.X_OK)
    (folder / "a" / "one.py").write_text("damaged")
    assert folder == packed(files, folders=NEEDED.folders)
    assert (folder / "a" / "one.py").read_text() == "print('a')\n"


def test_a_checkout_that_changed_since_the_plan_is_refused(bench: Bench) -> None:
    files = bench.resolve()
    (bench.checkout / "a" / "one.py").write_text("print('later')\n")
    with pytest.raises(UserError, match=r"checkout: its files changed since the plan was made"):
        packed(files, folders=NEEDED.folders)
    assert [] == [path for path in (bench.folder / "cache" / "sources").iterdir() if path.is_dir()]
