"""What dlperf makes of Slurm's words, and the script that it submits.

A Slurm that answers is in tests/lab. Here its tools are programs that print recorded text, for answers that a
healthy Slurm does not give, or that take it long.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.plan.cluster import Container, load_cluster
from dlperf.running import slurm
from dlperf.running.slurm import (
    JobState,
    NoSlurm,
    allocation,
    clean_environment,
    has_node,
    job_state,
    require_nodes,
    script,
    step_command,
    submit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.plan.cluster import Cluster

FULL = """\
transport: slurm
nodes: 2
devices: 8
cores: 64
submit:
  partition: gpu
  account: faces
  qos: high
  time: 4h
  constraint: h100
  extra: [--reservation=a b]
"""


def cluster(text: str, folder: Path) -> Cluster:
    (folder / "c.yaml").write_text(text)
    return load_cluster("c.yaml", folder=folder)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give tools of Slurm by name: what each prints, its errors, its exit code; the others are missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "_PAUSE_SECONDS", 0.0)

    def give(**answers: tuple[str, str, int]) -> None:
        for name, (output, errors, code) in answers.items():
            program = tmp_path / name
            program.write_text(
                f"#!{sys.executable}\nimport sys\nsys.stdout.write({output!r})\n"
                f"sys.stderr.write({errors!r})\nsys.exit({code})\n"
            )
            program.chmod(0o755)

    return give


def test_the_script_of_a_job(tmp_path: Path) -> None:
    command = ["/opt/python", "-m", "dlperf", "run", "a b.yaml"]
    text = script(
        cluster(FULL, tmp_path),
        name="tiny",
        log=Path("/r/%j.log"),
        command=command,
        folder=Path("/home/me/my lab"),
    )
    assert (
        text
        == """\
#!/bin/bash
#SBATCH --job-name=dlperf-tiny
#SBATCH --output=/dev/null
#SBATCH --error=/r/%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --partition=gpu
#SBATCH --account=faces
#SBATCH --qos=high
#SBATCH --time=240
#SBATCH --constraint=h100
#SBATCH --signal=B:USR1@60
#SBATCH --gres=gpu:8
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH '--reservation=a b'
cd '/home/me/my lab' || exit 5
exec /opt/python -m dlperf run 'a b.yaml'
"""
    )


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("submit: {gpus: gpus_per_node}", {"--gpus-per-node=8", "--exclusive"}),
        ("submit: {gpus: none, exclusive: false}", set()),
        ("device: cpu", {"--exclusive"}),
    ],
)
def test_how_gpus_and_whole_nodes_are_asked_for(keys: str, wanted: set[str], tmp_path: Path) -> None:
    text = script(
        cluster(f"transport: slurm\nnodes: 1\ndevices: 8\ncores: 4\n{keys}\n", tmp_path),
        name="s",
        log=Path("l"),
        command=["x"],
        folder=Path("/"),
    )
    options = {line.removeprefix("#SBATCH ") for line in text.splitlines() if "gpu" in line or "excl" in line}
    assert options == wanted


def test_no_variable_of_an_outer_job_or_launcher_or_of_dlperf_reaches_a_job() -> None:
    leaked = {
        "SLURM_CPU_BIND": "mask_cpu:0x1", "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_JOB_ID": "7",
        "SBATCH_PARTITION": "x", "SRUN_DEBUG": "3", "SALLOC_TIMELIMIT": "1", "SLURMD_NODENAME": "n",
        "PMIX_RANK": "0", "PMI_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "PRTE_MCA_x": "1",
        "SQUEUE_STATES": "R", "DLPERF_HOST_LOCK": "/shared/lock", "DLPERF_RUN": "x",
    }  # fmt: skip
    kept = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "SLURMY": "x", "DLPERF_CACHE": "/shared/cache"}
    assert clean_environment(leaked | kept) == kept


def test_the_step_of_a_node() -> None:
    words = "srun --jobid=7 --overlap --nodes=1 --ntasks=1 --nodelist=n1 --cpu-bind=none --no-kill"
    assert step_command("7", "n1") == [*words.split(), "--input=all", "--unbuffered", "--quiet"]


def test_a_container_is_options_of_srun_or_words_before_the_program() -> None:
    """The words of pyxis are as its manual has them; no test runs it."""
    pyxis = Container(runtime="pyxis", image="/shared/dl.sqsh", mounts=("/scratch", "/data"))
    assert step_command("7", "n1", container=pyxis)[-3:] == [
        "--container-image=/shared/dl.sqsh",
        "--container-writable",
        "--container-mounts=/scratch:/scratch,/data:/data",
    ]
    apptainer = Container(runtime="apptainer", image="/shared/dl.sif", mounts=("/scratch",))
    words = step_command("7", "n1", container=apptainer)[-4:]
    assert words == ["apptainer", "exec", "--bind=/scratch", "/shared/dl.sif"]


NO_JOB = ("", "slurm_load_jobs error: Invalid job id specified\n", 1)
DOWN = ("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1)


@pytest.mark.parametrize(
    ("answers", "state", "words"),
    [
        (
            {"squeue": ("PENDING|QOSMaxJobsPerUserLimit|\n", "", 0)},
            JobState(state="PENDING", reason="QOSMaxJobsPerUserLimit"),
            "waiting in the queue: QOSMaxJobsPerUserLimit",
        ),
        (
            {"squeue": ("PENDING|ReqNodeNotAvail, UnavailableNodes:n[1-2]|\n", "", 0)},
            JobState(state="PENDING", reason="ReqNodeNotAvail, UnavailableNodes:n[1-2]"),
            "waiting in the queue: ReqNodeNotAvail, UnavailableNodes:n[1-2]",
        ),
        ({"squeue": ("PENDING|None|\n", "", 0)}, JobState(state="PENDING"), "waiting in the queue"),
        (
            {"squeue": ("RUNNING|None|n[1-2]\n", "", 0)},
            JobState(state="RUNNING", nodes="n[1-2]"),
            "running on n[1-2]",
        ),
        (
            {
                "squeue": ("", "", 0),
                "scontrol": ("JobId=7 JobState=NODE_FAIL Reason=NodeDown ExitCode=0:0 NodeList=n1\n", "", 0),
            },
            JobState(state="NODE_FAIL", reason="NodeDown", nodes="n1"),
            "NODE_FAIL: Slurm lost a node of it (NodeDown)",
        ),
        (
            {
                "squeue": ("", "", 0),
                "scontrol": (
                    "JobId=7 JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0 NodeList=n1\n",
                    "",
                    0,
                ),
            },
            JobState(state="FAILED", reason="some cases failed", nodes="n1"),
            "FAILED: its command failed (some cases failed)",
        ),
        (
            {
                "squeue": NO_JOB,
                "scontrol": NO_JOB,
                "sacct": ("CANCELLED by 3999999999|0:0|0:0|None|n1\n", "", 0),
            },
            JobState(state="CANCELLED", reason="by user 3999999999", nodes="n1"),
            "CANCELLED: somebody cancelled it (by user 3999999999)",
        ),
        (
            {"squeue": DOWN, "scontrol": DOWN, "sacct": ("FAILED|1:0|137:0|None|n1\n", "", 0)},
            JobState(state="FAILED", reason="exit code 1:0, exit code 137:0", nodes="n1"),
            "FAILED: its command failed (exit code 1:0, exit code 137:0)",
        ),
        (
            {
                "squeue": NO_JOB,
                "scontrol": NO_JOB,
                "sacct": ("", "Slurm accounting storage is disabled\n", 1),
            },
            JobState(state="unknown", is_forgotten=True),
            "unknown: Slurm does not say how it ended",
        ),
        (
            {"squeue": DOWN, "scontrol": DOWN, "sacct": ("", "", 0)},
            JobState(state="unknown"),
            "unknown: Slurm does not say how it ended",
        ),
        ({}, JobState(state="unknown"), "unknown: Slurm does not say how it ended"),
    ],
)
def test_what_slurm_says_of_a_job(
    answers: Any, state: JobState, words: str, tools: Callable[..., None]
) -> None:
    tools(**answers)
    said = job_state("7")
    assert (said, str(said)) == (state, words)


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [
        (JobState(state="TIMEOUT"), True),
        (JobState(state="PREEMPTED"), True),
        (JobState(state="NODE_FAIL"), True),
        (JobState(state="FAILED", reason="it stopped before its time limit"), True),
        (JobState(state="FAILED", reason="Slurm took a node from it that its runs need"), True),
        (JobState(state="FAILED", reason="some cases failed"), False),
        (JobState(state="CANCELLED"), False),
        (JobState(state="unknown"), False),
    ],
)
def test_a_follow_up_job_is_for_ends_from_outside(state: JobState, *, goes_on: bool) -> None:
    assert state.may_go_on is goes_on


def test_a_job_has_its_nodes_until_slurm_says_otherwise(
    tools: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert has_node("n2")
    tools(squeue=DOWN, scontrol=DOWN)
    assert has_node("n2")
    tools(squeue=("RUNNING|None|n[1,3]\n", "", 0), scontrol=("n1\nn3\n", "", 0))
    assert has_node("n3")
    assert not has_node("n2")
    tools(squeue=("", "", 0), scontrol=("JobId=7 JobState=NODE_FAIL NodeList=n3\n", "", 0))
    assert not has_node("n3")
    tools(squeue=NO_JOB, scontrol=NO_JOB)
    assert not has_node("n3")


def test_the_last_job_of_an_array_asks_of_itself(tools: Callable[..., None], tmp_path: Path) -> None:
    """Its number is that of the array, for which squeue lists every job."""
    tools(squeue=("", "", 0), scontrol=("n1\n", "", 0))
    (tmp_path / "squeue").write_text('#!/bin/sh\n[ "$3" = 7_1 ] && echo 10:00\n')
    with pytest.MonkeyPatch.context() as variables:
        for name, value in {
            "JOB_ID": "7",
            "JOB_NODELIST": "n1",
            "ARRAY_JOB_ID": "7",
            "ARRAY_TASK_ID": "1",
        }.items():
            variables.setenv(f"SLURM_{name}", value)
        assert allocation().ends_at is not None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account",
            (
                "sbatch refuses the job: Batch job submission failed: Invalid account; "
                "`sacctmgr show associations user=$USER` lists accounts; set submit.account"
            ),
        ),
        ("", "sbatch refuses the job: no reason given"),
    ],
)
def test_a_refused_job_says_what_to_do(said: str, message: str, tools: Callable[..., None]) -> None:
    """The lab's Slurm has no accounts."""
    tools(sbatch=("", said, 1))
    with pytest.raises(slurm.UserError) as caught:
        submit(Path("job.sh"), name="dlperf-tiny-1")
    assert str(caught.value) == message


def test_without_slurm_the_message_says_where_to_run(tools: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(NoSlurm, match="there is no sbatch here; run dlperf on a login node of the cluster"):
        submit(Path("job.sh"), name="dlperf-tiny-1")
    made = cluster("transport: slurm\nnodes: 2\ndevices: 1\ncores: 1\n", tmp_path)
    tools(sinfo=("", "sinfo: error: DNS SRV lookup failed\nsinfo: fatal: no configuration\n", 1))
    with pytest.raises(NoSlurm, match=r"sinfo: .*; is this a login node of the cluster\?"):
        require_nodes(made)
