"""Results on disk: whole or not at all, and nothing unreadable goes unnamed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_folders import MACHINE, make_case, store_good_runs, write_run

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.results.cases import case_figures
from dlperf.results.extract import extract
from dlperf.results.schema import RunResult, Status, same_hardware
from dlperf.results.store import read_results, store_run, write_result

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", make_case())
    stored = store_run(folder)
    (run,) = read_results(tmp_path).runs
    assert run.result == stored
    assert run.folder == folder
    assert run.sweep == tmp_path / "y1"
    assert run.hardware == "Example CPU 3000, 8 cores, 16 GiB"


def test_the_link_of_a_node_counts_as_hardware(tmp_path: Path) -> None:
    nodes = [MACHINE.model_copy(update={"host": host, "link": "1 Gbit/s"}) for host in ("a", "b")]
    store_good_runs(tmp_path, make_case(), [8.0], nodes=nodes)
    (run,) = read_results(tmp_path).runs
    assert run.hardware == "Example CPU 3000, 8 cores, 16 GiB, link 1 Gbit/s"


def test_steps_are_a_table_with_every_iteration(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case(), seconds=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    store_run(folder)
    lines = (folder / "steps.csv").read_text().splitlines()
    assert lines[0] == "step,samples,seconds,kind,loss"
    assert lines[1] == "0,8,0.1,warmup,40.0"
    assert len(lines) == 7


def test_storing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    store_run(folder)
    first = [(folder / name).read_bytes() for name in ("steps.csv", "result.json")]
    store_run(folder)
    assert [(folder / name).read_bytes() for name in ("steps.csv", "result.json")] == first


def test_nothing_but_the_two_files_is_left_behind(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    before = {path.name for path in folder.iterdir()}
    store_run(folder)
    assert {path.name for path in folder.iterdir()} - before == {"steps.csv", "result.json"}


def test_a_result_without_a_log_is_written_with_the_steps_that_it_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "c" / "r1"
    folder.mkdir(parents=True)
    result = RunResult(
        dlperf_version="0.1.0",
        case=make_case(),
        repeat=1,
        status=Status.NOT_MEASURED,
        reason="no environment",
    )
    write_result(folder, result, steps=())
    (run,) = read_results(tmp_path).runs
    assert run.result == result
    assert (folder / "steps.csv").read_text() == "step,samples,seconds,kind,loss\n"


def test_figures_go_with_ok_and_with_nothing_else() -> None:
    with pytest.raises(ValueError, match="do not go together"):
        RunResult(dlperf_version="0", case=make_case(), repeat=1, status=Status.OK)


def changed_result(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**content, **changes}))


def test_a_newer_schema_is_skipped_and_named(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    folder = next((tmp_path / "y1" / "runs").glob("*/r2"))
    changed_result(folder, schema_version=99, novelty=1)
    results = read_results(tmp_path)
    assert [run.result.repeat for run in results.runs] == [1]
    (skipped,) = results.skipped
    assert skipped.path == folder / "result.json"
    assert skipped.why == "schema version 99; this dlperf reads up to 1: use a newer dlperf"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"case": 1}'])
def test_a_damaged_result_is_named_and_the_others_are_read(tmp_path: Path, damage: bytes) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    damaged = next((tmp_path / "y1" / "runs").glob("*/r1")) / "result.json"
    damaged.write_bytes(damage)
    results = read_results(tmp_path)
    assert [run.result.repeat for run in results.runs] == [2]
    (skipped,) = results.skipped
    assert skipped.path == damaged
    assert skipped.why.startswith("damaged")


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    folder = next((tmp_path / "y1" / "runs").glob("*/r1"))
    changed_result(folder, status="splendid")
    (skipped,) = read_results(tmp_path).skipped
    assert skipped.why.startswith("damaged: status: ")


def test_the_energy_that_earlier_versions_wrote_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    stored = store_run(folder)
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"energy": {"joules": {"rapl": 250.0}}}))
    (run,) = read_results(tmp_path).runs
    assert stored == run.result
    assert "energy" not in json.loads(run.result.model_dump_json())


def test_a_result_that_an_earlier_version_invented_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    store_run(folder)
    path = folder / "result.json"
    content = json.loads(path.read_text())
    content["case"]["simulated"] = True
    path.write_text(json.dumps(content))
    found = read_results(tmp_path)
    assert found.runs == ()
    assert "case.simulated" in found.skipped[0].why


def test_a_run_without_a_result_holds_none(tmp_path: Path) -> None:
    write_run(tmp_path / "y1", make_case())
    results = read_results(tmp_path)
    assert (results.runs, results.skipped) == ((), ())


def test_results_folders_and_sweep_folders_are_understood_and_nothing_counts_twice(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    store_good_runs(tmp_path / "r18", make_case(topology=Topology(nodes=1, devices_per_node=2)), [9.0])
    assert len(read_results(tmp_path).runs) == 2
    assert len(read_results(tmp_path / "y1").runs) == 1
    assert len(read_results(tmp_path / "y1", tmp_path / "r18").runs) == 2
    assert len(read_results(tmp_path, tmp_path / "y1").runs) == 2


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no such folder"):
        read_results(tmp_path / "nothing")
    with pytest.raises(UserError, match="a file"):
        read_results(tmp_path / "file")


def test_a_damaged_plan_is_named_and_the_results_are_read(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    (tmp_path / "y1" / "plan.lock.json").write_text("{")
    results = read_results(tmp_path)
    assert len(results.runs) == 1
    assert [skipped.path.name for skipped in results.skipped] == ["plan.lock.json"]


def test_a_damaged_environment_leaves_the_hardware_unknown(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    next((tmp_path / "y1" / "runs").glob("*/r1/environment.json")).write_text("{}")
    (run,) = read_results(tmp_path).runs
    assert run.environment is None
    assert run.hardware == "unknown hardware"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Xeon @ 2199.998MHz, 8 cores, 16 GiB", "Xeon @ 2200.152MHz, 8 cores, 15 GiB", True),
        ("Xeon CPU @ 2.20GHz, 8 cores", "Xeon CPU @ 2.30GHz, 8 cores", False),
        ("Example CPU, 8 cores, 502 GiB", "Example CPU, 8 cores, 504 GiB", True),
        ("Example CPU, 8 cores, 16 GiB", "Example CPU, 8 cores, 32 GiB", False),
        ("Example CPU, 2 cores, 1 GiB", "Example CPU, 2 cores, 2 GiB", False),
        ("Example CPU, 8 cores, 16 GiB", "Example CPU, 4 cores, 16 GiB", False),
        ("8 x Tesla V100, 16 GiB", "4 x Tesla V100, 16 GiB", False),
        ("Example CPU, 16 GiB", "Example CPU, 16 GiB, link 1 Gbit/s", False),
    ],
)
def test_hardware_is_the_same_where_only_readings_differ_a_little(one: str, other: str, alike: bool) -> None:  # noqa: FBT001
    assert same_hardware(one, other) is same_hardware(other, one) is alike


def test_a_reboot_in_the_middle_of_a_sweep_makes_no_second_machine(tmp_path: Path) -> None:
    case = make_case()
    for repeat, memory in enumerate((15.6, 15.4, 15.6), 1):
        node = MACHINE.model_copy(
            update={"memory_bytes": int(memory * 2**30), "cpu": f"CPU @ {2200 + memory}MHz"}
        )
        store_run(write_run(tmp_path / "s", case, repeat=repeat, nodes=[node]))
    (figure,) = case_figures(read_results(tmp_path))
    assert len(figure.runs) == 3
    assert len({run.environment.hardware_key for run in figure.runs if run.environment}) == 2


@pytest.mark.parametrize("name", ["result.json", "case.json", "outcome.json", "logs/rank0.log"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself", "folder of a link"])
def test_what_is_no_regular_file_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, kind: str
) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    folder = next((tmp_path / "y1" / "runs").glob("*/r1"))
    spoiled = folder / name
    spoiled.unlink()
    if kind == "pipe":
        os.mkfifo(spoiled)
    else:
        target = {"device": "/dev/zero", "link to itself": spoiled.name, "folder of a link": "nowhere/x"}
        spoiled.symlink_to(target[kind])
    results = read_results(tmp_path)
    assert [run.result.repeat for run in results.runs] == [2]
    if (name, kind) == ("result.json", "folder of a link"):
        assert not results.skipped  # a link to nothing is a run without a result
    else:
        (skipped,) = results.skipped
        assert skipped.path == spoiled
        assert skipped.why in {"not a regular file", "Too many levels of symbolic links"}


def test_a_log_that_is_no_regular_file_ends_an_extraction_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    (folder / "logs" / "rank0.log").unlink()
    os.mkfifo(folder / "logs" / "rank0.log")
    with pytest.raises(UserError, match=r"logs/rank0\.log: not a regular file"):
        extract(folder)


def test_a_document_of_absurd_size_is_named(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    path = next((tmp_path / "y1" / "runs").glob("*/r1")) / "result.json"
    os.truncate(path, 100 << 30)  # a hole takes no disk
    (skipped,) = read_results(tmp_path).skipped
    assert str(skipped) == f"{path}: larger than 64 MiB"


def test_links_in_place_of_cases_and_runs_lead_nowhere(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    runs = tmp_path / "y1" / "runs"
    (runs / "loop").symlink_to("loop")
    (next(runs.glob("*/r1")).parent / "r2").symlink_to("r2")
    assert [run.result.repeat for run in read_results(tmp_path).runs] == [1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples_per_sec", -1e308),
        ("samples_per_sec", 1e308),
        ("samples_per_sec", 0),
        ("step_seconds_median", 1e308),
        ("peak_anonymous_bytes", 10**40),
        ("accepted_steps", -1),
    ],
)
def test_a_figure_that_was_never_measured_is_named(tmp_path: Path, field: str, value: float) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    folder = next((tmp_path / "y1" / "runs").glob("*/r1"))
    figures = json.loads((folder / "result.json").read_text())["figures"]
    changed_result(folder, figures={**figures, field: value})
    results = read_results(tmp_path)
    assert [run.result.repeat for run in results.runs] == [2]
    assert str(results.skipped[0]).startswith(f"{folder}/result.json: damaged: figures.{field}: ")


def test_a_case_of_absurd_size_is_named(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    folder = next((tmp_path / "y1" / "runs").glob("*/r1"))
    case = json.loads((folder / "result.json").read_text())["case"]
    changed_result(folder, case={**case, "num_classes": 10**400})
    results = read_results(tmp_path)
    assert [run.result.repeat for run in results.runs] == [2]
    assert results.skipped[0].why == "damaged: the file: case: a size that no run can have"


def test_a_machine_of_absurd_size_is_unknown_hardware(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    path = next((tmp_path / "y1" / "runs").glob("*/r1")) / "environment.json"
    content = json.loads(path.read_text())
    content["nodes"][0]["memory_bytes"] = 10**400
    path.write_text(json.dumps(content))
    (run,) = read_results(tmp_path).runs
    assert run.hardware == "unknown hardware"


def test_a_log_of_absurd_times_gives_no_result_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case(), seconds=[1e-300] * 6)
    with pytest.raises(UserError, match=r"r1: its logs give no result: samples_per_sec: "):
        extract(folder)
