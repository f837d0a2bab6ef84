"""Imported logs: what is told and what is asked for, and nothing twice; what the run folder then holds."""

# ruff: noqa: E501  log lines are as long as they are

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import resource
import statistics
import tarfile
import zipfile
from pathlib import Path

import pytest
from import_lab import TOLD, imported, instructions, oneflow_log, rates

from dlperf.errors import UserError
from dlperf.importing.case import MissingSettings, facts_of_path, facts_of_settings
from dlperf.importing.convert import check_conversion
from dlperf.importing.run_folders import Done, Instructions, files_of, import_file
from dlperf.logs.events import Event, read_events
from dlperf.report.document import Request, build_report
from dlperf.report.render import write_report
from dlperf.report.verify import Kind, verify
from dlperf.results.extract import extract
from dlperf.results.schema import Status
from dlperf.results.store import read_results


def test_the_result_says_where_it_comes_from_and_the_folder_holds_the_log(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n8g/r100_b64_fp32_3.log", rates(60))
    (done,) = imported(path, instructions(tmp_path))
    assert done.result.imported is not None
    assert (str(path), hashlib.sha256(path.read_bytes()).hexdigest(), "oneflow_face", (1, 60)) == (
        done.result.imported.source, done.result.imported.sha256, done.result.imported.dialect,
        done.result.imported.lines,
    )  # fmt: skip
    assert ("data", "measured_iterations", "seed", "threads_per_device") == done.result.not_known
    assert path.read_bytes() == (done.folder / "logs/imported.log").read_bytes()
    assert "r3" == done.folder.name
    assert ("1n8g", 64, "fp32", "cuda") == (
        str(done.result.case.topology), done.result.case.batch_size_per_device, done.result.case.precision,
        done.result.case.device,
    )  # fmt: skip


def test_the_folder_alone_gives_the_same_result_again(tmp_path: Path) -> None:
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60)), instructions(tmp_path))
    assert done.result == extract(done.folder).result
    (run,) = read_results(tmp_path / "results").runs
    assert done.result == run.result
    assert 61 == len((done.folder / "steps.csv").read_text().splitlines())


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60))
    imported(path, instructions(tmp_path))
    before = {each: each.stat().st_mtime_ns for each in (tmp_path / "results").rglob("*")}
    (again,) = imported(path, instructions(tmp_path))
    assert not again.is_new
    renamed = path.rename(path.with_name("r100_b64_fp32_2.log"))
    (renamed_again,) = imported(renamed, instructions(tmp_path))
    assert not renamed_again.is_new
    assert set(before) == set((tmp_path / "results").rglob("*"))
    files = {each: time for each, time in before.items() if each.is_file()}
    assert files == {each: each.stat().st_mtime_ns for each in files}


def test_another_log_with_the_same_repeat_is_refused(tmp_path: Path) -> None:
    imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60)), instructions(tmp_path))
    other = oneflow_log(tmp_path / "other/1n1g/r100_b64_fp32_1.log", rates(61))
    with pytest.raises(
        UserError, match=r"repeat 1 of this case was imported from .*; give another with --set repeat=N"
    ):
        imported(other, instructions(tmp_path))


def test_runs_of_which_more_is_known_do_not_stand_beside_a_placeholder(tmp_path: Path) -> None:
    imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60)), instructions(tmp_path))
    other = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_2.log", rates(61))
    with pytest.raises(
        UserError, match=r"not known of it: data, measured_iterations, seed; of repeat 1 of its case \("
    ):
        imported(other, instructions(tmp_path, threads_per_device="1"))


def test_runs_appended_in_one_file_become_repeats(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_2.log", rates(50))
    path.write_text(path.read_text() * 3)
    done = imported(path, instructions(tmp_path))
    assert [("r2", 0), ("r3", 1), ("r4", 2)] == [
        (one.folder.name, one.result.imported.run) for one in done if one.result.imported is not None
    ]
    assert all(not one.is_new for one in imported(path, instructions(tmp_path)))


def test_archives_give_their_members_and_the_layout_counts_inside_them(tmp_path: Path) -> None:
    path = tmp_path / "all.tar.gz"
    content = oneflow_log(tmp_path / "x.log", rates(60)).read_bytes()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (("a/1n4g/r100_b96_fp32_1.log", content), ("a/README", b"hello\n")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    outcomes = list(import_file(path, instructions(tmp_path)))
    assert isinstance(outcomes[0], Done)
    assert isinstance(outcomes[1], UserError)
    assert ("1n4g", 96) == (
        str(outcomes[0].result.case.topology),
        outcomes[0].result.case.batch_size_per_device,
    )
    assert (
        f"{path}!a/README: no throughput record of a known program in 1 line; the first line is 'hello'"
        == str(outcomes[1])
    )
    assert not list((tmp_path / "results").rglob(".importing-*"))


def test_a_compressed_log_is_kept_as_it_is(tmp_path: Path) -> None:
    plain = oneflow_log(tmp_path / "x.log", rates(60))
    path = tmp_path / "1n1g/r100_b64_fp32_1.log.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(plain.read_bytes()))
    (done,) = imported(path, instructions(tmp_path))
    assert path.read_bytes() == (done.folder / "logs/imported.log.gz").read_bytes()
    assert done.result == extract(done.folder).result


def test_what_nobody_tells_is_asked_for_all_at_once(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60))
    given = instructions(tmp_path)
    for key in TOLD:
        given.settings.pop(key)
    with pytest.raises(MissingSettings) as caught:
        imported(path, given)
    assert {
        "version": "the framework's, such as 0.3.4",
        "experiment": "r100_emore or r100_glint360k",
        "parallelism": (
            "data, model or partial_fc; partial_fc also needs --set sample_ratio=... (share of the classes, such as 0.1)"
        ),
    } == caught.value.hints
    assert str(caught.value).endswith(
        ": not known: version, experiment, parallelism; give them with --set or --map"
    )
    assert [] == list((tmp_path / "results/imported/runs").iterdir())


def test_the_logs_own_text_tells_what_the_path_does_not(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(
        "Namespace(batch_size_per_device=96, dataset='emore', device_num_per_node=4, model_parallel=1, network='r100', "
        "num_classes=85744, num_nodes=2, partial_fc=0, use_fp16=False)\n"
        + oneflow_log(tmp_path / "x.log", rates(60)).read_text()
    )
    given = instructions(tmp_path, device="cuda")
    for key in ("experiment", "parallelism"):
        given.settings.pop(key)
    (done,) = imported(path, given)
    case = done.result.case
    assert ("r100_emore", "model", "2n4g", 96, "fp32") == (
        case.workload.experiment, case.parallelism, str(case.topology), case.batch_size_per_device, case.precision,
    )  # fmt: skip


def test_arcface_torch_prints_its_settings_as_columns(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(
        "Training: 2021-07-06 11:26:28,123-: batch_size               128\n"
        "Training: 2021-07-06 11:26:28,123-: fp16                     True\n"
        "Training: 2021-07-06 11:26:28,123-: network                  r100\n"
        "Training: 2021-07-06 11:26:28,123-: sample_rate              0.1\n"
        + "".join(
            f"Training: 2021-07-06 11:26:28,123-Speed 900.00 samples/sec   Loss 1.0000   LearningRate 0.1000   "
            f"Epoch: 0   Global Step: {step}   Fp16 Grad Scale: 65536   Required: 1 hours\n"
            for step in range(50, 500, 50)
        )
    )
    told = {"framework": "pytorch", "topology": "1n8g", "device": "cuda", "parallelism": "partial_fc"}
    (done,) = imported(path, instructions(tmp_path, **told))
    case = done.result.case
    assert (128, "fp16", 0.1) == (case.batch_size_per_device, case.precision, case.sample_ratio)
    assert done.result.figures is not None
    assert pytest.approx(900.0) == done.result.figures.samples_per_sec


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"topology": "2n8g"}, "topology: folder 1n1g says 1n1g, --set says 2n8g"),
        (
            {"batch_size_per_device": "96"},
            "batch_size_per_device: file name r100_b64_fp32_1.log says 64, --set says 96",
        ),
        (
            {"experiment": "y1_emore"},
            "network: file name .* says r100, experiment y1_emore says mobilefacenet",
        ),
        ({"parallelism": "tensor"}, "parallelism: Input should be 'data', 'model' or 'partial_fc'"),
        ({"num_classes": "many"}, "num_classes=many: not a whole number"),
        ({"experiment": "r101"}, "unknown experiment 'r101'"),
    ],
)
def test_contradictions_and_wrong_values_are_named(
    told: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60))
    with pytest.raises(UserError, match=message):
        imported(path, instructions(tmp_path, **told))


def test_a_rank_that_the_topology_does_not_have_is_a_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "1n4g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text("[1,5]<stdout>:train: iter 0, loss 44.1, throughput: 12.500\n")
    with pytest.raises(UserError, match="topology: line 1 is of rank 5, and 1n4g has 4 ranks"):
        imported(path, instructions(tmp_path))


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--set: unknown key 'toplogy' \(did you mean 'topology'\?\)"):
        facts_of_settings({"toplogy": "1n1g"}, "--set")


def ranked(step: int, rank: int, rate: float) -> str:
    return (
        f"[1,{rank}]<stdout>:INFO:root:Epoch[0] Batch [{step}]\tSpeed: {rate:.2f} samples/sec\tacc=0.000000\n"
    )


@pytest.mark.parametrize("order", ["interleaved", "one behind the other"])
def test_processes_that_print_each_their_rate_are_joined_step_by_step(order: str, tmp_path: Path) -> None:
    path = tmp_path / "1n2g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    made = {(20 * step, rank): 200.0 + 10 * rank + step for step in range(1, 31) for rank in (0, 1)}
    keys = sorted(made, key=lambda key: key if order == "interleaved" else key[::-1])
    path.write_text("".join(ranked(step, rank, made[step, rank]) for step, rank in keys))
    (done,) = imported(path, instructions(tmp_path, version="1.6.0"))
    joined = [made[step, 0] + made[step, 1] for step in range(40, 620, 20)]
    assert done.result.figures is not None
    assert pytest.approx(statistics.harmonic_mean(joined)) == done.result.figures.samples_per_sec
    assert (29 * 20, 20) == (done.result.figures.accepted_steps, done.result.figures.dropped_steps)


@pytest.mark.parametrize(("lines", "processes"), [(("200.00", "210.00"), 2), (("200.00", "200.00"), 1)])
def test_processes_without_a_tag_are_counted_by_the_rates_of_a_step(
    lines: tuple[str, str], processes: int, tmp_path: Path
) -> None:
    """A line that two handlers printed has one rate."""
    path = tmp_path / "1n2g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text(
        "".join(
            f"INFO:root:Epoch[0] Batch [{step}]\tSpeed: {rate} samples/sec\tacc=0.000000\n"
            for step in range(20, 620, 20)
            for rate in lines
        )
    )
    (done,) = imported(path, instructions(tmp_path, version="1.6.0"))
    assert done.result.figures is not None
    assert (
        pytest.approx(statistics.mean(map(float, lines)) * processes) == done.result.figures.samples_per_sec
    )


def test_steps_that_start_again_all_the_time_are_no_appended_runs(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(2))
    path.write_text(path.read_text() * 1001)
    with pytest.raises(
        UserError, match="steps start again more than 1000 times by line 2002: these are not runs"
    ):
        imported(path, instructions(tmp_path))


def test_a_run_that_failed_early_is_a_failed_result(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b512_fp32_1.log", rates(3))
    path.write_text(path.read_text() + "oneflow::RuntimeException: CUDA error: out of memory\n")
    (done,) = imported(path, instructions(tmp_path))
    assert (Status.OOM, "logs/imported.log:4: oneflow::RuntimeException: CUDA error: out of memory") == (
        done.result.status, done.result.evidence,
    )  # fmt: skip


def test_a_run_that_was_ended_behind_its_window_keeps_its_figure(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(150))
    path.write_text(path.read_text() + "Killed\n")
    (done,) = imported(path, instructions(tmp_path))
    assert (Status.OK, "the run ended with killed: Killed") == (done.result.status, done.result.reason)


def test_a_log_without_a_record_that_failed_asks_for_its_program(tmp_path: Path) -> None:
    path = tmp_path / "1n1g/r100_b512_fp32_1.log"
    path.parent.mkdir()
    path.write_text("RuntimeError: CUDA out of memory\n")
    with pytest.raises(
        UserError, match=r"no record; line 1 shows oom: .*; if it is the log of a run that failed, name its"
    ):
        imported(path, instructions(tmp_path))
    given = Instructions(
        sweep=tmp_path / "results/imported",
        method="samples/seconds",
        dialect="oneflow_face",
        settings=facts_of_settings(TOLD, "--set"),
        rules=(),
        here=tmp_path,
    )
    (done,) = imported(path, given)
    assert Status.OOM is done.result.status


def test_the_layout_of_2021_tells_topology_batch_precision_and_repeat() -> None:
    facts = facts_of_path("logs.tar!oneflow/4n8g/y1_b256_fp16_12.log")
    assert {
        "network": "y1", "batch_size_per_device": "256", "precision": "fp16", "repeat": "12", "topology": "4n8g",
        "device": "cuda",
    } == {key: fact.value for key, fact in facts.items()}  # fmt: skip
    assert {} == facts_of_path("somewhere/train.log")


def test_folders_are_walked_but_not_into_results(tmp_path: Path) -> None:
    oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60))
    (tmp_path / ".hidden").write_text("x")
    imported(tmp_path / "1n1g/r100_b64_fp32_1.log", instructions(tmp_path))
    found = list(files_of([tmp_path], results=tmp_path / "results"))
    assert [tmp_path / "1n1g/r100_b64_fp32_1.log"] == found


def test_a_file_whose_name_is_no_text_is_imported_under_one_that_can_be_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"r100_b64_fp32_1.log.\xff\n")
    (done,) = imported(oneflow_log(tmp_path / "1n1g" / name, rates(50)), instructions(tmp_path))
    assert f"{tmp_path}/1n1g/r100_b64_fp32_1.log.\ufffd\ufffd" == done.source
    assert done.result == read_results(tmp_path / "results").runs[0].result


@pytest.mark.parametrize("key", ["repeat", "batch_size_per_device", "num_classes", "threads_per_device"])
def test_a_count_is_at_least_1_and_no_number_beyond_all_reason(key: str, tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100.log", rates(50))
    told = {"batch_size_per_device": "64", "precision": "fp32"}
    with pytest.raises(UserError, match=rf"r100\.log: {key}=0: must be at least 1 \(--set\)"):
        imported(path, instructions(tmp_path, **{**told, key: "0"}))
    with pytest.raises(UserError, match=f"{key}=9{{400}}: not a whole number, or far too large"):
        imported(path, instructions(tmp_path, **{**told, key: "9" * 400}))


@pytest.mark.parametrize("world_size", [16, 2, 8])
def test_a_world_size_is_that_of_the_devices_or_of_the_nodes(world_size: int, tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "2n8g/r100_b64_fp32_1.log", rates(50))
    path.write_text(f"world_size: {world_size}\n" + path.read_text())
    if world_size in {16, 2}:
        assert 1 == len(imported(path, instructions(tmp_path)))
        return
    with pytest.raises(
        UserError,
        match="topology: folder 2n8g says 2n8g, line 1 says world size 8; give the right",
    ):
        imported(path, instructions(tmp_path))


def test_a_folder_named_runs_may_hold_logs(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "old/runs/1n1g/r100_b64_fp32_1.log", rates(50))
    assert [path] == list(files_of([tmp_path], results=tmp_path / "results"))
    (done,) = imported(path, instructions(tmp_path))
    assert [path] == list(files_of([tmp_path], results=tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="results of dlperf already"):
        list(files_of([done.folder.parents[2]], results=tmp_path / "elsewhere"))


def test_a_reason_and_its_evidence_are_one_printable_line(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(50))
    path.write_bytes(path.read_bytes() + "RuntimeError: CUDA \x9b31m out of memory\u202e\x07  \t!\n".encode())
    (done,) = imported(path, instructions(tmp_path))
    assert "the run ended with oom: RuntimeError: CUDA 31m out of memory !" == done.result.reason
    assert "logs/imported.log:51: RuntimeError: CUDA 31m out of memory !" == done.result.evidence


def test_a_folder_that_cannot_be_read_is_an_error_and_a_pipe_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = oneflow_log(tmp_path / "a/r100_b64_fp32_1.log", rates(50))
    os.mkfifo(tmp_path / "a/pipe")
    (tmp_path / "a/gone.log").symlink_to("nothing")
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def denied(folder: str) -> object:
        """The superuser, as which tests may run, is denied nothing: the fault cannot be made otherwise."""
        if Path(folder).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    found = [str(each) for each in files_of([tmp_path], results=tmp_path / "results")]
    assert [
        str(tmp_path / "a/gone.log"),
        str(path),
        f"{tmp_path / 'b'}: cannot be read: Permission denied",
    ] == found


def test_a_damaged_member_of_an_archive_stops_no_other(tmp_path: Path) -> None:
    """Whether the damage is in what is looked at first, or behind it."""
    made, path = io.BytesIO(), tmp_path / "logs.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for repeat, steps in ((1, 50), (2, 5000), (3, 60)):
            log = oneflow_log(tmp_path / "a.log", rates(steps))
            archive.write(log, f"1n1g/r100_b64_fp32_{repeat}.log")
    path.write_bytes(made.getvalue().replace(b"iter 7,", b"iter 8,", 2))
    *damaged, good = import_file(path, instructions(tmp_path))
    for repeat, error in enumerate(damaged, 1):
        assert f"logs.zip!1n1g/r100_b64_fp32_{repeat}.log: damaged compressed data: Bad CRC-32" in str(error)
    assert 2 == len(damaged)
    assert isinstance(good, Done)
    assert (3, True) == (good.result.repeat, good.is_new)


def events(folder: Path) -> dict[str, list[Event]]:
    """The events of an imported run, by key."""
    found: dict[str, list[Event]] = {}
    for event in read_events((folder / "logs/rank0.log").read_text().splitlines()):
        found.setdefault(event.key, []).append(event)
    return found


def test_the_event_log_says_what_a_reader_needs_to_know(tmp_path: Path) -> None:
    path = tmp_path / "1n2g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text(
        "noise\n"
        + "".join(
            f"INFO:root:Epoch[0] Batch [{step}]\tSpeed: 200.00 samples/sec\tacc=0.5\tlossvalue={loss}\n"
            for step, loss in ((20, "nan"), (40, "7.500000"))
        )
        + "Killed\n"
    )
    (done,) = imported(path, instructions(tmp_path, version="1.6.0"))
    said = events(done.folder)
    assert [128] == [event.value for event in said["global_batch_size"]]
    (method,) = said["figure_method"]
    assert ("samples/seconds", "all records after the first 20 iterations") == (
        method.value,
        method.metadata["rule"],
    )
    assert [["data", "measured_iterations", "seed", "threads_per_device"]] == [
        event.value for event in said["not_known"]
    ]
    assert [
        ({"throughput": 200.0, "seconds": 12.8, "loss": None, "loss_text": "nan"}, 20, "warmup", 2),
        ({"throughput": 200.0, "seconds": 12.8, "loss": 7.5}, 40, "train", 3),
    ] == [
        (event.value, event.metadata["step"], event.metadata["kind"], event.metadata["line"])
        for event in said["tracked_stats"]
    ]
    assert [(2560, 20)] * 2 == [
        (event.metadata["samples"], event.metadata["iterations"]) for event in said["tracked_stats"]
    ]
    (failure,) = said["failure"]
    assert ({"kind": "killed", "text": "Killed"}, 4) == (failure.value, failure.metadata["line"])


def test_steps_that_start_again_with_every_epoch_are_counted_on(tmp_path: Path) -> None:
    path = tmp_path / "1n1g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text(
        "".join(
            f"INFO:root:Epoch[{epoch}] Batch [{step}]\tSpeed: 200.00 samples/sec\tacc=0.5\n"
            for epoch in range(3)
            for step in range(20, 100, 20)
        )
    )
    (done,) = imported(path, instructions(tmp_path, version="1.6.0"))
    assert list(range(0, 240, 20)) == [step.step for step in extract(done.folder).steps]
    assert done.result.figures is not None
    assert (220, 20) == (done.result.figures.accepted_steps, done.result.figures.dropped_steps)


def test_the_original_gives_the_same_event_log_again(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(50))
    path.write_text(path.read_text() * 2)
    for done in imported(path, instructions(tmp_path)):
        check_conversion(done.folder)


def test_an_event_log_that_the_original_does_not_give_is_named_with_the_line(tmp_path: Path) -> None:
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(50)), instructions(tmp_path))
    log = done.folder / "logs/rank0.log"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(
        "".join([*lines[:10], lines[10].replace('"train"', '"warmup"').replace("2", "3"), *lines[11:]])
    )
    with pytest.raises(UserError, match=rf"{log}:11: it says :::MLLOG .*, imported.log gives :::MLLOG .*"):
        check_conversion(done.folder)
    (done.folder / "logs/imported.log").write_text("changed\n")
    with pytest.raises(
        UserError, match=r"imported\.log: changed since it was imported \(SHA-256 .*import the log"
    ):
        check_conversion(done.folder)
    (done.folder / "logs/imported.log").unlink()
    with pytest.raises(UserError, match="the log that this run was imported from is gone; import it again"):
        check_conversion(done.folder)


def test_a_damaged_record_of_an_import_is_named(tmp_path: Path) -> None:
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60)), instructions(tmp_path))
    (done.folder / "import.json").write_text(json.dumps({"source": 1}))
    with pytest.raises(
        UserError,
        match=r"import\.json: no record of an import: source: Input should be a valid string; remove the run folder "
        "and import the log again",
    ):
        extract(done.folder)


def test_a_run_folder_that_an_older_dlperf_imported_is_refused(tmp_path: Path) -> None:
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(60)), instructions(tmp_path))
    for name in ("import.json", "result.json"):
        content = json.loads((done.folder / name).read_text())
        old = content["imported"] if name == "result.json" else content
        old["schema_version"] = 1
        (done.folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"import\.json: .* schema version 1; .* and import the log again"):
        extract(done.folder)
    (skipped,) = read_results(tmp_path / "results").skipped
    assert skipped.why.endswith("imported by an older dlperf; remove the run folder and import the log again")


def test_a_verified_report_names_an_imported_log_that_its_original_does_not_give(tmp_path: Path) -> None:
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(50)), instructions(tmp_path))
    log = done.folder / "logs/rank0.log"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(
        "".join([*lines[:10], lines[10].replace('"train"', '"warmup"').replace("2", "3"), *lines[11:]])
    )
    request = Request(paths=(done.folder.parents[2],))
    write_report(build_report(request, report_folder=tmp_path), request, tmp_path / "report.md")
    kinds = {difference.kind for difference in verify(tmp_path / "report.md").differences}
    assert Kind.IMPORT in kinds


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (b"\0", "binary data, not a log"),
        (b"train: iter 1, loss 2.0, throughput: 3.000\n", "unpacks to more than 5000 times its size"),
    ],
)
def test_a_gibibyte_in_an_archive_of_kilobytes_is_not_unpacked_to_the_disk(
    unit: bytes, message: str, tmp_path: Path
) -> None:
    block = gzip.compress((unit * (1 << 24))[: 1 << 24])
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1n1g/r100_b64_fp32_1.log.gz", block * 64)  # gzip files in a row unpack in a row
    assert path.stat().st_size < 100_000
    given = instructions(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (64 << 20) + (1 << 20)  # a write beyond it fails, and would be an OSError
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if unit == b"\0" else most, before[1]))
    try:
        (error,) = import_file(path, given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(error, UserError)
    assert message in str(error)
    assert [given.sweep / "runs"] == list(given.sweep.iterdir())
