"""Sweeps as jobs of a real Slurm: submitted, followed, taken up again; what is stored, said and left."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from netlab import SMALL
from processes import until, until_line

from dlperf.plan.cluster import load_cluster
from dlperf.running.slurm import script, step_command

if TYPE_CHECKING:
    from netlab import Host
    from slurm_lab import SlurmSweepLab

TWO_RUNS = {"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2}


def write_slow(lab: SlurmSweepLab, **keys: Any) -> None:
    """Two runs; each stands still at its fourth iteration, for as long as the file `trouble` exists."""
    slow = {"step_seconds": 0.1, "fault": "hang", "fault_step": 3, "fault_while": str(lab.trouble)}
    lab.write(options=slow, measure=TWO_RUNS, **keys)


def at_work(lab: SlurmSweepLab, **keys: Any) -> subprocess.Popen[str]:
    """The command that follows a job whose first run trains on node0, and does not end by itself."""
    write_slow(lab, **keys)
    process = lab.start()
    lab.until_step(lab.slurm.net.hosts[0])
    return process


def must_end_whole(lab: SlurmSweepLab) -> None:
    """The same command makes what is missing."""
    lab.trouble.unlink(missing_ok=True)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert "tiny: 2 of 2 runs: 2 ok" in done.stdout
    assert ["ok", "ok"] == [result.status.value for result in lab.stored()]


def test_a_sweep_runs_as_a_job_whose_summary_is_printed_once(job_lab: SlurmSweepLab) -> None:
    job_lab.write(measure=TWO_RUNS)
    done = job_lab.run()
    assert done.returncode == 0, done.stderr
    assert [("ok", ("node0",))] * 2 == [(result.status.value, result.nodes) for result in job_lab.stored()]
    number = job_lab.job()
    assert f"job {number} submitted; its output: results/tiny/slurm/{number}.log" in done.stderr
    assert f"job {number}: COMPLETED: it ended by itself" in done.stderr
    assert (done.stdout + done.stderr).count("2 of 2 runs: 2 ok") == 1
    assert job_lab.jobs()[-1]["ended"] == "COMPLETED: it ended by itself"
    (folder, _) = job_lab.run_folders()
    environment = json.loads((folder / "environment.json").read_text())
    assert ["lab,node0s"] == [node["features"] for node in environment["nodes"]]
    report = job_lab.dlperf("report", "results/tiny")
    assert "| features in Slurm | lab,node0s |" in " ".join(report.stdout.split())
    planned = job_lab.run("--repeats", "9", "--dry-run")
    hours = "(0.0 node hours held, 0.0 node hours by a job for each cell) for the 1 of 1 case that ran before"
    assert hours in " ".join(planned.stdout.split())
    again = job_lab.run()
    assert again.returncode == 0
    assert len(job_lab.jobs()) == 1  # nothing is missing, so nothing is submitted


def test_ranks_of_two_nodes_train_as_one(job_lab: SlurmSweepLab) -> None:
    job_lab.write_cluster(nodes=2)
    job_lab.write(topology="2n2g", measure={"warmup_iterations": 1, "measured_iterations": 12, "repeats": 1})
    done = job_lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = job_lab.stored()
    assert ("ok", ("node0", "node1")) == (result.status.value, result.nodes)
    assert result.figures is not None
    assert result.figures.loss_last < result.figures.loss_first


def test_a_command_killed_before_it_knows_its_job_finds_the_job_again(job_lab: SlurmSweepLab) -> None:
    """This sbatch submits and then kills the command that asked for it."""
    program = job_lab.folder / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\nkill -9 $PPID\n')
    program.chmod(0o755)
    job_lab.write(measure=TWO_RUNS)
    job_lab.variables["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    killed = job_lab.run()
    assert killed.returncode == -signal.SIGKILL
    assert job_lab.jobs() == []
    del job_lab.variables["PATH"]
    done = job_lab.run()
    assert done.returncode == 0, done.stderr
    assert f"job {job_lab.job()}, submitted at " in done.stderr
    assert "2 of 2 runs: 2 ok" in done.stdout
    assert len(job_lab.jobs()) == 1
    everything = job_lab.slurm.ask("squeue", "-h", "--states=all", "-o", "%A %j").splitlines()
    (name,) = [line.split()[1] for line in everything if line.split()[0] == job_lab.job()]
    assert [line.split()[0] for line in everything if line.split()[1] == name] == [job_lab.job()]


def test_a_job_goes_on_when_its_command_ends_and_the_next_command_follows_it(
    job_lab: SlurmSweepLab,
) -> None:
    process = at_work(job_lab)
    number = job_lab.job()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"job {number} goes on; follow it again: dlperf run tiny.yaml --cluster lab" in errors
    assert f"end it: scancel {number}" in errors
    second = job_lab.start()
    until_line(second, f"job {number}, submitted at ")
    second.kill()
    second.communicate()
    assert job_lab.slurm.state(number) == "RUNNING"
    assert job_lab.left_on(job_lab.slurm.net.hosts[0])
    assert len(job_lab.jobs()) == 1
    job_lab.slurm.ask("scancel", number)
    job_lab.until_nothing_is_left()


def test_a_job_that_somebody_cancels_leaves_nothing_and_is_made_whole(job_lab: SlurmSweepLab) -> None:
    process = at_work(job_lab)
    number = job_lab.job()
    shown = job_lab.dlperf("status", "results/tiny")
    assert shown.returncode == 3
    assert f"job {number}, submitted at " in shown.stdout
    assert "running on node0; its output: results/tiny/slurm/" in " ".join(shown.stdout.split())
    assert "resumes it" not in shown.stderr
    job_lab.slurm.ask("scancel", number)
    _, errors = process.communicate()
    assert process.returncode == 5
    assert f"job {number} ended with 2 runs to make: CANCELLED: somebody cancelled it" in errors
    assert "completed runs are kept, and the same command makes the others" in errors
    job_lab.until_nothing_is_left()
    assert job_lab.stored() == []
    shown = job_lab.dlperf("status", "results/tiny")
    assert "CANCELLED: somebody cancelled it" in shown.stdout
    assert "resumes it" in shown.stderr
    must_end_whole(job_lab)


def test_a_batch_step_that_is_killed_leaves_nothing_and_is_made_whole(job_lab: SlurmSweepLab) -> None:
    process = at_work(job_lab)
    number, host = job_lab.job(), job_lab.slurm.net.hosts[0]
    (harness,) = [pid for pid in host.processes("SLURM_JOB_ID=") if b"-mdlperf" in words(host, pid)]
    host.run("kill", "-9", harness)
    _, errors = process.communicate()
    assert process.returncode == 5
    assert f"job {number} ended with 2 runs to make: FAILED: its command failed" in errors
    job_lab.until_nothing_is_left()
    must_end_whole(job_lab)


def words(host: Host, pid: int) -> bytes:
    """The command line of a process without the ends of its words."""
    return host.path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b"")


def test_before_its_end_a_job_stops_and_a_follow_up_job_makes_the_rest(job_lab: SlurmSweepLab) -> None:
    """The signal that Slurm sends then is sent now, the same way."""
    job_lab.write_cluster(submit={"continue": True})
    process = at_work(job_lab)
    number = job_lab.job()
    job_lab.slurm.ask("scancel", "--batch", "--signal=USR1", number)
    # Without its trouble the run could still end well.
    until(lambda: job_lab.slurm.state(number) == "FAILED", what="the command in the job has the signal")
    job_lab.trouble.unlink()
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    ended = f"job {number}: FAILED: its command failed (it stopped before its time limit)"
    assert ended in errors
    assert "a follow-up job makes what is left: 2 runs\n" in errors.partition(ended)[2]
    assert "2 of 2 runs: 2 ok" in out
    assert len(job_lab.jobs()) == 2


def test_a_run_of_a_preempted_job_says_so_and_is_made_again(job_lab: SlurmSweepLab) -> None:
    job_lab.write_cluster(submit={"partition": "main"})
    process = at_work(job_lab)
    number = job_lab.job()
    job_lab.slurm.ask("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o/dev/null", "--wrap=true")
    _, errors = process.communicate()
    assert process.returncode == 5
    ended = f"job {number}: PREEMPTED: another job took its place"
    assert ended in errors
    (result,) = job_lab.stored()
    assert result.status.value == "preempted"
    assert str(result.reason).startswith(f"it ended with its job: {ended}")
    must_end_whole(job_lab)


def test_a_node_that_slurm_loses_ends_the_job(job_lab: SlurmSweepLab) -> None:
    process = at_work(job_lab)
    number = job_lab.job()
    job_lab.slurm.set_down(job_lab.slurm.net.hosts[0])
    _, errors = process.communicate()
    assert process.returncode == 5
    assert f"job {number} ended with 2 runs to make: NODE_FAIL: Slurm lost a node of it" in errors
    job_lab.until_nothing_is_left()
    assert ["lost_node"] == [result.status.value for result in job_lab.stored()]
    must_end_whole(job_lab)


@pytest.mark.slow
def test_a_second_node_that_slurm_loses_ends_the_job_and_a_follow_up_job_makes_the_rest(
    job_lab: SlurmSweepLab,
) -> None:
    """Its slurmd is killed, which Slurm notices some time later; what its runs need does not come back."""
    slurm = job_lab.slurm
    job_lab.write_cluster(nodes=2, submit={"continue": True})
    write_slow(job_lab, topology="2n1g")
    process = job_lab.start()
    job_lab.until_step(slurm.net.hosts[0])
    number = job_lab.job()
    slurm.stop_node(slurm.net.hosts[1])
    until(lambda: "does not come back" in job_lab.log(), what="the node is given up")
    job_lab.trouble.unlink()
    slurm.start_node(slurm.net.hosts[1])
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "node1 is set aside: lost: " in errors
    assert "node1 is set aside: Slurm has set it down; it does not come back to this job" in errors
    ended = f"job {number}: FAILED: its command failed (Slurm took a node from it that its runs need)"
    assert ended in errors
    assert "a follow-up job makes what is left: 2 runs\n" in errors.partition(ended)[2]
    assert [("ok", ("node0", "node1"))] * 2 == [
        (result.status.value, result.nodes) for result in job_lab.stored()
    ]


def test_results_on_a_full_disk_end_the_job_and_it_is_made_whole(job_lab: SlurmSweepLab) -> None:
    """The results are on a small file system, which something else fills while a run trains."""
    disk = job_lab.slurm.net.folder / SMALL
    (job_lab.folder / "results").symlink_to(disk)
    slow = {"fault": "wait", "fault_step": 3, "fault_while": str(job_lab.trouble)}
    job_lab.write(options=slow, measure=TWO_RUNS)
    process = job_lab.start()
    job_lab.until_step(job_lab.slurm.net.hosts[0])
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * (1 << 12))
    job_lab.trouble.unlink()
    _, errors = process.communicate()
    assert process.returncode == 5
    assert "No space left on device" in errors
    assert "Traceback" not in errors
    job_lab.until_nothing_is_left()
    (disk / "filler").unlink()
    must_end_whole(job_lab)


def test_a_step_that_may_use_fewer_cores_than_the_file_says_measures_nothing(job_lab: SlurmSweepLab) -> None:
    """The slurmd itself is bound to one core, and with it all that it starts."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    slurm, host = job_lab.slurm, job_lab.slurm.net.hosts[0]
    slurm.stop_node(host)
    slurm.start_node(host, cores="0")
    job_lab.write()
    done = job_lab.run()
    slurm.stop_node(host)
    assert done.returncode == 5
    assert (
        "the cluster file says 2 cores, programs of its step may use 1: the job was given fewer"
        in done.stderr
    )
    assert "SLURM_CPU_BIND" in done.stderr
    assert job_lab.stored() == []


@pytest.mark.parametrize("gpus", ["gres", "gpus_per_node"])
def test_a_step_has_the_gpus_of_its_job(job_lab: SlurmSweepLab, gpus: str) -> None:
    """The device files of these GPUs are links to /dev/null, so no rank uses them."""
    job_lab.write_cluster(device="cuda", submit={"gpus": gpus})
    cluster = load_cluster("lab", folder=job_lab.folder)
    # As dlperf starts it: without the variables of the job.
    words = shlex.join([*step_command("JOB", "node0"), "sh", "-c", "echo $CUDA_VISIBLE_DEVICES $(nproc) >&2"])
    clean = 'exec env -i PATH="$PATH" SLURM_CONF="$SLURM_CONF" '
    step = ["sh", "-c", clean + words.replace("JOB", "$SLURM_JOB_ID")]
    log = job_lab.folder / "gpus.log"
    text = script(cluster, name="gpus", log=log, command=step, folder=job_lab.folder)
    (job_lab.folder / "job.sh").write_text(text)
    assert job_lab.slurm.ask("sbatch", "--wait", str(job_lab.folder / "job.sh"))
    assert log.read_text().splitlines()[-1] == f"0,1 {os.cpu_count()}"


def test_two_sweeps_at_once_take_the_node_one_after_the_other(job_lab: SlurmSweepLab) -> None:
    job_lab.write()
    processes = [job_lab.start("--results", f"results/{name}") for name in ("a", "b")]
    outs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    for name in ("a", "b"):
        (result,) = (job_lab.folder / "results" / name / "runs").glob("*/r*/result.json")
        assert '"status": "ok"' in result.read_text()


def test_two_commands_for_one_folder_submit_one_job(job_lab: SlurmSweepLab) -> None:
    job_lab.write()
    processes = [job_lab.start() for _ in range(2)]
    outs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert len(job_lab.jobs()) == 1


def test_a_controller_that_is_started_again_ends_no_job(job_lab: SlurmSweepLab) -> None:
    slurm = job_lab.slurm
    slow = {"step_seconds": 0.1, "fault": "wait", "fault_step": 25, "fault_while": str(job_lab.trouble)}
    measure = {"warmup_iterations": 1, "measured_iterations": 40, "repeats": 1}
    job_lab.write(options=slow, measure=measure)
    process = job_lab.start()
    job_lab.until_step(slurm.net.hosts[0])
    slurm.stop_controller()
    job_lab.until_step(slurm.net.hosts[0], 20)
    slurm.start_controller()
    job_lab.trouble.unlink()
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "1 of 1 run: 1 ok" in out
    assert "unknown" not in errors


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"submit": {"partition": "nowhere"}},
            "clusters/lab.yaml: there is no partition 'nowhere'; there is main urgent small",
        ),
        (
            {"nodes": 9},
            "clusters/lab.yaml: nodes: 9, but partition main has 2: the job would wait for ever",
        ),
        (
            {"submit": {"partition": "small"}, "nodes": 2},
            "clusters/lab.yaml: nodes: 2, but partition small has 1: the job would wait for ever",
        ),
        (
            {"submit": {"extra": ["--gres=gpu:99"]}},
            (
                "sbatch refuses the job: Batch job submission failed: Requested node configuration is not "
                "available; "
                "no node has so many cores or GPUs: `sinfo -o '%N %c %G'`"
            ),
        ),
        (
            {"submit": {"constraint": "h100"}},
            (
                "sbatch refuses the job: Batch job submission failed: Invalid feature specification; "
                "`sinfo -o '%N %f'` lists features; see submit.constraint"
            ),
        ),
    ],
)
def test_a_job_that_slurm_would_refuse_ends_in_one_line(
    job_lab: SlurmSweepLab, keys: dict[str, Any], message: str
) -> None:
    job_lab.write_cluster(**keys)
    job_lab.write()
    done = job_lab.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dlperf: {message}\n"
    assert job_lab.jobs() == []


def test_a_job_that_would_wait_for_ever_is_cancelled(job_lab: SlurmSweepLab) -> None:
    """Slurm takes jobs that are longer than their partition allows."""
    job_lab.write_cluster(submit={"time": "99h", "partition": "small"})
    job_lab.write()
    done = job_lab.run()
    number = job_lab.job()
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"dlperf: job {number} would wait for ever and was cancelled: PartitionTimeLimit; "
        "`sinfo -o '%P %l'` lists limits; set submit.time\n"
    ) in done.stderr
    assert job_lab.slurm.state(number) == "CANCELLED"


def test_in_a_job_of_ones_own_the_command_makes_its_runs_at_once(job_lab: SlurmSweepLab) -> None:
    """As in a shell by salloc; an outer step's variables that bind ranks to one core change nothing."""
    job_lab.write(measure=TWO_RUNS)
    program = f"cd {job_lab.folder} && exec {sys.executable} -m dlperf run tiny.yaml --cluster lab"
    job_lab.variables |= {"SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_CPU_BIND_TYPE": "mask_cpu:"}
    done = subprocess.run(
        ["sbatch", "--wait", "-N1", "--exclusive", f"--output={job_lab.folder}/own.log", f"--wrap={program}"],
        env=os.environ | job_lab.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    log = (job_lab.folder / "own.log").read_text()
    assert done.returncode == 0, log
    assert "tiny: 2 of 2 runs: 2 ok" in log
    assert job_lab.jobs() == []
