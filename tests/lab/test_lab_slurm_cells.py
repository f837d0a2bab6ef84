"""A job for each cell on a real Slurm: side by side, split into arrays, taken away, taken up again."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

from processes import until, until_line

if TYPE_CHECKING:
    import subprocess

    from slurm_lab import SlurmSweepLab

TWO_RUNS = {"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2}
DONE = "every run has a result"


def write_cells(lab: SlurmSweepLab, *batches: int, submit: dict[str, Any] | None = None, **keys: Any) -> None:
    """A cell of two runs for each batch size, and a cluster of two nodes that gives each cell a job."""
    lab.write_cluster(nodes=2, allocate="per_cell", submit=submit or {})
    lab.write(batch_size_per_device=list(batches), **{"measure": TWO_RUNS, **keys})


def at_work(lab: SlurmSweepLab, **keys: Any) -> subprocess.Popen[str]:
    """The command that follows the jobs of two cells, which train on two nodes at the same time.

    Each run stands still at its fourth iteration while the file `trouble` exists.
    """
    slow = {"step_seconds": 0.1, "fault": "wait", "fault_step": 3, "fault_while": str(lab.trouble)}
    write_cells(lab, 2, 3, options=slow, **keys)
    process = lab.start()
    for host in lab.slurm.net.hosts:
        lab.until_step(host)
    return process


def node_of(lab: SlurmSweepLab, job: str) -> str:
    """The node of a job that works on one."""
    return lab.slurm.ask("squeue", "-h", "-j", job, "-o", "%N")


def ends(lab: SlurmSweepLab) -> list[list[str]]:
    """How the jobs of each array ended, as slurm.json has it."""
    return [[task["ended"] for task in job["tasks"]] for job in lab.jobs()]


def must_end_whole(lab: SlurmSweepLab) -> None:
    """The same command makes what is missing, and no result is another run's."""
    lab.trouble.unlink(missing_ok=True)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert "tiny: 4 of 4 runs: 4 ok" in done.stdout
    must_be_unmixed(lab)


def must_be_unmixed(lab: SlurmSweepLab) -> None:
    """Each of four run folders has the case, the log and the result of its own cell."""
    sizes = []
    for folder in lab.run_folders():
        case = json.loads((folder / "case.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        size = case["batch_size_per_device"]
        assert (f"_b{size}_" in folder.parent.name, result["status"]) == (True, "ok")
        assert result["case"] == case
        assert f'"key": "global_batch_size", "value": {size},' in (folder / "logs" / "rank0.log").read_text()
        sizes.append(size)
    assert [2, 2, 3, 3] == sorted(sizes)


def test_two_cells_train_at_the_same_time_and_nothing_is_lost_or_mixed(job_lab: SlurmSweepLab) -> None:
    """The command that follows them is interrupted, and started again."""
    process = at_work(job_lab)
    number = job_lab.job()
    until_line(process, "2 cells: 0 done, 2 running\n")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"jobs go on: {number}; follow them again: dlperf run tiny.yaml --cluster lab" in errors
    assert f"end them: scancel {number}" in errors
    shown = job_lab.dlperf("status", "results/tiny")
    assert "jobs of 2 cells: 2 running; output: results/tiny/slurm" in " ".join(shown.stdout.split())
    assert "resumes it" not in shown.stderr
    # Neither the whole folder nor a cell of it can be taken by others meanwhile.
    refused = job_lab.dlperf("run", "tiny.yaml")
    assert "another dlperf is using this results folder" in refused.stderr
    case = job_lab.jobs()[0]["tasks"][0]["cases"][0]
    refused = job_lab.dlperf("cell", "results/tiny", case)
    assert refused.returncode == 5
    assert "another dlperf makes these runs" in refused.stderr
    second = job_lab.start()
    until_line(second, "2 cells: 0 done, 2 running\n")
    job_lab.trouble.unlink()
    out, errors = second.communicate()
    assert second.returncode == 0, errors
    assert f"  {number}_1: [2/2] numpy-" in errors
    assert "tiny: 4 of 4 runs: 4 ok" in out
    must_be_unmixed(job_lab)
    nodes = {(result.case.batch_size_per_device, result.nodes) for result in job_lab.stored()}
    assert 2 == len(nodes)  # the repeats of a cell are made on one node
    assert ends(job_lab) == [[DONE, DONE]]
    assert f"2 ended: {DONE}" in job_lab.dlperf("status", "results/tiny").stdout


def test_cells_are_arrays_of_one_number_of_nodes_that_are_not_too_long(job_lab: SlurmSweepLab) -> None:
    """This Slurm's arrays have at most 2 jobs, and one array works at a time."""
    once = {"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1}
    larger = [{"when": {"nodes": 2, "batch_size_per_device": [3, 4]}, "why": "one is enough"}]
    keys = {"measure": once, "topology": ["1n1g", "2n1g"], "exclude": larger}
    write_cells(job_lab, 2, 3, 4, submit={"parallel_jobs": 2, "time": "10m"}, **keys)
    planned = job_lab.run("--dry-run")
    for array in ("2 jobs, each with 1 node", "1 job, each with 1 node", "1 job, each with 2 nodes"):
        assert f"an array of {array} for at most 10 min: " in planned.stdout
    assert "\n#SBATCH --array=0-1%2\n" in planned.stdout
    assert planned.stdout.count("\n#SBATCH --dependency=afterany:JOB\n") == 2
    done = job_lab.run()
    assert done.returncode == 0, done.stderr
    assert "tiny: 4 of 4 runs: 4 ok" in done.stdout
    assert ends(job_lab) == [[DONE, DONE], [DONE], [DONE]]
    assert "waiting (Dependency" in done.stderr
    assert [1, 1, 1, 2] == sorted(len(result.nodes) for result in job_lab.stored())
    script = (job_lab.results / "slurm" / "job.sh").read_text()
    assert "#SBATCH --nodes=2\n" in script
    assert f"#SBATCH --dependency=afterany:{job_lab.jobs()[-2]['number']}\n" in script


def test_what_a_job_leaves_is_made_by_a_follow_up_job_or_by_the_same_command(job_lab: SlurmSweepLab) -> None:
    """One job reaches its time limit, the other is cancelled."""
    process = at_work(job_lab, submit={"continue": True})
    number, slurm = job_lab.job(), job_lab.slurm
    node = node_of(job_lab, f"{number}_0")
    # The follow-up job waits, so that it does not replace what is looked at.
    slurm.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    slurm.ask("scontrol", "update", f"JobId={number}_0", "TimeLimit=1")
    *_, left = until_line(process, f"job {number}_0 has left 2 runs: ")
    assert "TIMEOUT: it reached its time limit" in left or "(it stopped before its time limit)" in left
    until_line(process, " submitted for 1 cell; ")
    assert ["job_timeout"] == [result.status.value for result in job_lab.stored()]
    slurm.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    slurm.ask("scancel", f"{number}_1")
    until_line(process, f"job {number}_1 has left 2 runs: CANCELLED: somebody cancelled it")
    job_lab.trouble.unlink()
    _, errors = process.communicate()
    assert process.returncode == 5
    assert f"1 job ended with 2 runs to make (job {number}_1: CANCELLED: somebody cancelled it" in errors
    assert "completed runs are kept, and the same command makes the others: dlperf run" in errors
    job_lab.until_nothing_is_left()
    assert len(job_lab.stored()) == 2
    must_end_whole(job_lab)
    assert [2, 1, 1] == [len(job["tasks"]) for job in job_lab.jobs()]


def test_a_preempted_job_and_one_whose_node_is_lost_say_so_and_the_rest_is_made(
    job_lab: SlurmSweepLab,
) -> None:
    """The command that follows them is killed, and started again.

    What the lost node has started outlives its job at first: its slurmd, which would end it, is gone.
    """
    at_work(job_lab).kill()
    number, slurm = job_lab.job(), job_lab.slurm
    process = job_lab.start()
    until_line(process, "2 cells: 0 done, 2 running\n")
    preempted, lost = slurm.net.hosts
    if node_of(job_lab, f"{number}_0") != preempted.name:
        preempted, lost = lost, preempted
    slurm.ask("sbatch", "-p", "urgent", f"-w{preempted.name}", "--exclusive", "-o/dev/null", "--wrap=true")
    slurm.stop_node(lost)
    _, errors = process.communicate()
    assert process.returncode == 5, errors
    assert f"job {number}_0 has left 2 runs: PREEMPTED: another job took its place" in errors
    assert f"job {number}_1 has left 2 runs: NODE_FAIL: Slurm lost a node of it" in errors
    assert "2 jobs ended with 4 runs to make (job " in errors
    assert ["lost_node", "preempted"] == sorted(result.status.value for result in job_lab.stored())
    # The program of the step, which does nothing, waits for its slurmd.
    until(lambda: len(job_lab.left_on(lost)) <= 1, what="no run goes on there")
    slurm.start_node(lost)
    job_lab.until_nothing_is_left()
    must_end_whole(job_lab)


def test_an_array_that_would_wait_for_ever_is_cancelled(job_lab: SlurmSweepLab) -> None:
    """Slurm takes jobs that are longer than their partition allows."""
    job_lab.write_cluster(allocate="per_cell", submit={"time": "99h", "partition": "small"})
    job_lab.write(batch_size_per_device=[2, 3])
    done = job_lab.run()
    number = job_lab.job()
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"dlperf: job {number} would wait for ever and was cancelled: PartitionTimeLimit; "
        "`sinfo -o '%P %l'` lists limits; set submit.time\n"
    ) in done.stderr
    assert job_lab.slurm.state(f"{number}_0") == "CANCELLED"
