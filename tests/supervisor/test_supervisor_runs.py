"""What the supervisor does with ranks that end by themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from supervisor_lab import LOOSE_CHILD, SUPERVISOR, Lab

from dlperf.running.launch import RankProcess, rank_variables


def test_a_run_whose_ranks_succeed_is_completed(lab: Lab) -> None:
    lab.launch("print('one')", "print('two')")
    code, events = lab.run()
    assert code == 0
    outcome = lab.outcome
    assert outcome["reason"] == "completed"
    assert outcome["detail"] is None
    assert outcome["first_failed_rank"] is None
    assert outcome["processes_left"] == []
    ends = [(rank["rank"], rank["exit_code"], rank["signal"]) for rank in outcome["ranks"]]
    assert ends == [(0, 0, None), (1, 0, None)]
    assert 0 < outcome["ranks"][0]["seconds"] <= outcome["seconds"]
    assert lab.log(0) == b"one\n"
    assert lab.log(1) == b"two\n"
    assert events[0]["event"] == "started"
    assert events[-1] == {"event": "finished", "outcome": outcome}
    assert {"event": "output", "rank": 1, "text": "two"} in events


def test_it_runs_on_the_oldest_python(lab: Lab, oldest_python: str) -> None:
    lab.python = oldest_python
    lab.launch(LOOSE_CHILD + "print('done'); sys.exit(3)")
    code, events = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "rank_failed"
    assert re.fullmatch(rb"loose \d+\ndone\n", lab.log())
    assert lab.left() == set()
    assert events[-1]["event"] == "finished"


def test_the_log_holds_the_bytes_as_they_came(lab: Lab) -> None:
    """No decoding, no added line ends, standard error in order with standard output."""
    lab.launch(
        "import os\n"
        "os.write(1, b'\\xff\\xfe\\x00 out\\r\\n')\n"
        "os.write(2, b'err \\xe2\\x82')\n"
        "os.write(1, b'\\rno end')"
    )
    _, events = lab.run()
    assert lab.log() == b"\xff\xfe\x00 out\r\nerr \xe2\x82\rno end"
    texts = [event["text"] for event in events if event["event"] == "output"]
    assert texts == ["\ufffd\ufffd\x00 out", "err \ufffd\rno end"]


def test_a_huge_line_is_kept_whole_and_shown_cut(lab: Lab) -> None:
    lab.launch("import os\nfor _ in range(160): os.write(1, b'x' * 65536)\nprint('\\nshort')")
    _, events = lab.run()
    assert lab.log() == b"x" * (160 * 65536) + b"\nshort\n"
    texts = [event["text"] for event in events if event["event"] == "output"]
    assert [len(text) for text in texts] == [4000, 5]


def test_the_first_failing_rank_ends_the_others(lab: Lab) -> None:
    waits = "import time; print('waiting'); time.sleep(600)"
    lab.launch(waits, "import sys; sys.exit(3)", waits)
    code, _ = lab.run()
    assert code == 1
    outcome = lab.outcome
    assert outcome["reason"] == "rank_failed"
    assert outcome["first_failed_rank"] == 1
    assert [rank["exit_code"] for rank in outcome["ranks"]] == [None, 3, None]
    assert [rank["signal"] for rank in outcome["ranks"]] == [15, None, 15]


def test_a_rank_killed_from_outside_is_reported_with_its_signal(lab: Lab) -> None:
    lab.launch("import os; print('last words'); os.kill(os.getpid(), 9)")
    lab.run()
    assert lab.outcome["reason"] == "rank_failed"
    assert lab.outcome["ranks"][0]["signal"] == 9
    assert lab.outcome["ranks"][0]["exit_code"] is None
    assert lab.log() == b"last words\n"


def test_what_a_rank_leaves_behind_is_killed(lab: Lab) -> None:
    """A double fork in its own session that ignores SIGTERM, after a rank that succeeded."""
    lab.launch(LOOSE_CHILD + "print('done')", grace_seconds=0.3)
    code, _ = lab.run()
    assert code == 0
    assert re.fullmatch(rb"loose \d+\ndone\n", lab.log())
    assert lab.left() == set()


def test_a_missing_interpreter_is_start_failed_and_ends_the_ranks_before_it(lab: Lab) -> None:
    lab.launch("import time; time.sleep(600)", "pass")
    lab.edit_rank(1, argv=["/no/such/python", "train.py"])
    code, _ = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "start_failed"
    assert lab.outcome["detail"] == "rank 1: [Errno 2] No such file or directory: '/no/such/python'"
    assert lab.left() == set()


def test_a_log_that_cannot_be_created_is_start_failed(lab: Lab) -> None:
    (lab.folder / "logs").write_text("a file where the folder should be")
    lab.launch("print('never')")
    code, _ = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "start_failed"
    assert "logs" in lab.outcome["detail"]


def test_a_core_that_does_not_exist_is_start_failed(lab: Lab) -> None:
    lab.launch("print('never')")
    lab.edit_rank(0, cpus=[100_000])
    lab.run()
    assert lab.outcome["reason"] == "start_failed"
    assert "Invalid argument" in lab.outcome["detail"]


def test_a_rank_is_bound_to_its_cores_and_its_neighbour_is_not(lab: Lab) -> None:
    core = max(os.sched_getaffinity(0))
    show = "import os; print(sorted(os.sched_getaffinity(0)))"
    lab.launch(show, show)
    lab.edit_rank(0, cpus=[core])
    lab.run()
    assert json.loads(lab.log(0)) == [core]
    assert json.loads(lab.log(1)) == sorted(os.sched_getaffinity(0))


def test_a_rank_gets_only_its_variables_and_the_inherited_ones(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_PROTO", "Simple")
    monkeypatch.setenv("MY_TOKEN", "secret")
    lab.launch("import json, os; print(json.dumps(dict(os.environ)))", inherit=["PATH", "NCCL_*"])
    lab.edit_rank(0, env={"NCCL_PROTO": "LL", "RANK": "0"})
    lab.run()
    variables = json.loads(lab.log())
    variables.pop("LC_CTYPE", None)  # Python's own coercion in an empty locale
    assert variables == {
        "PATH": os.environ["PATH"],
        "NCCL_DEBUG": "INFO",
        "NCCL_PROTO": "LL",
        "RANK": "0",
    }


@pytest.mark.parametrize(
    ("inherited", "joined"),
    [
        ("/usr/local/cuda/lib64", "/environment/lib:/usr/local/cuda/lib64"),
        ("", "/environment/lib"),
        (None, "/environment/lib"),
    ],
)
def test_the_users_own_variables_replace_defaults_and_follow_search_paths(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, inherited: str | None, joined: str
) -> None:
    """Also on another machine, where only its supervisor knows them; dlperf records the same values."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    if inherited is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH", inherited)
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "5")
    lab.launch("import json, os; print(json.dumps(dict(os.environ)))", inherit=["HOROVOD_*", "LD_*"])
    own = {
        "env": {"RANK": "0"},
        "defaults": {"HOROVOD_CYCLE_TIME": "0.1", "MXNET_X": "54"},
        "paths": {"LD_LIBRARY_PATH": "/environment/lib"},
    }
    lab.edit_rank(0, **own)
    lab.run()
    variables = json.loads(lab.log())
    variables.pop("LC_CTYPE", None)
    expected = {"RANK": "0", "HOROVOD_CYCLE_TIME": "5", "MXNET_X": "54", "LD_LIBRARY_PATH": joined}
    assert expected == variables
    rank = RankProcess.model_validate({"rank": 0, "argv": (), "cpus": (), "log": "", **own})
    assert expected == rank_variables(rank, {"HOROVOD_CYCLE_TIME": "5", "LD_LIBRARY_PATH": inherited or ""})


def test_every_rank_leads_its_own_session(lab: Lab) -> None:
    lab.launch("import os; print(os.getpid() == os.getsid(0))")
    lab.run()
    assert lab.log() == b"True\n"


def test_a_reader_that_never_reads_delays_nothing(lab: Lab) -> None:
    """Neither the ranks nor the logs wait for it."""
    lab.launch("for number in range(200_000): print('line', number)")
    process = lab.start()
    assert process.wait(timeout=60) == 0
    assert lab.log() == b"".join(b"line %d\n" % number for number in range(200_000))


def test_a_reader_that_is_gone_changes_nothing(lab: Lab) -> None:
    lab.launch("for number in range(20_000): print('line', number)")
    process = lab.start()
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert lab.outcome["reason"] == "completed"
    assert lab.log().endswith(b"line 19999\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError: 'schema_version'"),
        ('{"schema_version": 2}', "schema_version is 2, not 1"),
    ],
)
def test_an_invalid_launch_file_is_refused_in_one_line(lab: Lab, text: str, message: str) -> None:
    (lab.folder / "launch.json").write_text(text)
    process = lab.start()
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert errors.decode().startswith("supervisor.py: launch.json: ")
    assert message in errors.decode()
    assert not (lab.folder / "outcome.json").exists()


def test_without_an_argument_it_prints_its_usage() -> None:
    done = subprocess.run([sys.executable, str(SUPERVISOR)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: supervisor.py LAUNCH_FILE\n"


def test_a_second_supervisor_in_the_same_folder_is_refused(lab: Lab) -> None:
    lab.launch("import time; print('working'); time.sleep(600)")
    lab.start()
    lab.until_log(b"working")
    second = lab.start()
    _, errors = second.communicate()
    assert second.returncode == 2
    assert errors == b"supervisor.py: launch.json: another supervisor runs here\n"
    assert lab.log() == b"working\n"


def test_there_is_no_outcome_before_the_end(lab: Lab) -> None:
    lab.launch("import time; print('working'); time.sleep(600)")
    process = lab.start()
    lab.until_log(b"working")
    assert not (lab.folder / "outcome.json").exists()
    process.terminate()
    process.wait(timeout=60)
    assert lab.outcome["reason"] == "stopped"
    assert sorted(path.name for path in lab.folder.iterdir()) == ["launch.json", "logs", "outcome.json"]


def test_the_outcome_has_the_cpu_seconds_of_the_ranks(lab: Lab) -> None:
    lab.launch("import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass")
    code, _events = lab.run()
    assert code == 0
    assert 0.5 <= lab.outcome["cpu_seconds"] < 60
    assert lab.outcome["processes_left"] == []
