"""The stages of a prepared GPU run; `benchmarks/gpu_session.sh` starts it, and docs/gpu.md describes it.

The stages run in order of their worth, each within its own limit and all within one. A stage that fails is
recorded and the next one runs; what no time is left for is skipped. After every stage the summary and the
evidence in the folder of `--out` are as complete as they can be, in few files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_summary import PEAKS, TELEMETRY, summary  # beside this file

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 480
RESERVE_SECONDS = 15  # for the report and the evidence
# Its largest map, [batch, 64, 112, 112], has fewer than 2^31 elements: with more, libraries can fail in their
# own ways before memory ends.
LARGEST_BATCH = 2656
GRACE_SECONDS = 15  # what a command that is told to stop may take

TINY = {
    "network": "mobilefacenet", "head": "GDC", "embedding_size": 128, "dataset": "face_emore",
    "num_classes": 200, "loss": {"kind": "arcface", "scale": 64, "m1": 1, "m2": 0.5, "m3": 0},
    "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005},
    "schedule": {"learning_rate": 0.1, "steps": [100000], "scales": [0.1]}, "classifier_init_std": 0.01,
}  # fmt: skip
R18 = TINY | {
    "network": "iresnet18",
    "head": "E",
    "embedding_size": 512,
    "dropout": 0.4,
    "num_classes": 85744,
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is run on the GPU, or without one."""

    device: str
    experiment: str  # of the runs: shipped, or of this session
    aligned: str
    precisions: tuple[str, ...]  # the first is that of most stages
    aligned_precisions: tuple[str, ...]
    engines_precisions: tuple[str, ...]
    parallelisms: tuple[str, ...]  # of the stage `runs`
    batch: int
    classes: tuple[int, int]
    measure: dict[str, Any]
    align: tuple[str, ...]  # options
    turns: tuple[str, ...]
    threads: int | str
    too_large: dict[str, Any]  # a batch that cannot fit
    limit: dict[str, Any]


ON_GPU = Sizes(
    device="cuda",
    experiment="r100_emore",
    aligned="r18",
    precisions=("fp16", "bf16", "fp32"),
    aligned_precisions=("fp16", "bf16", "fp32"),
    engines_precisions=("fp16", "bf16", "fp32"),
    parallelisms=("partial_fc", "data"),
    batch=64,
    classes=(85744, 1_000_000),
    measure={"warmup_iterations": 10, "measured_iterations": 20, "repeats": 2, "max_interference": 1.0},
    align=("--steps", "3", "--batch-size", "8"),
    turns=("--network", "iresnet100"),
    threads="auto",
    too_large={
        "precision": "fp32",
        "batch_size_per_device": LARGEST_BATCH,
        "options": {"pytorch": {"compile": False}},
    },
    limit={
        "search": {"iterations": 3, "batch_size_per_device": {"granularity": 128, "upper": LARGEST_BATCH}},
        "options": {"pytorch": {"compile": False}},
    },
)
ON_CPU = Sizes(
    device="cpu",
    experiment="tiny",
    aligned="tiny",
    precisions=("fp32", "bf16"),
    aligned_precisions=("bf16",),
    engines_precisions=("fp32",),
    parallelisms=("partial_fc",),
    batch=2,
    classes=(200, 300),
    measure={"warmup_iterations": 1, "measured_iterations": 2, "repeats": 1, "max_interference": 1.0},
    align=("--steps", "1", "--num-classes", "50", "--batch-size", "2"),
    turns=("--network", "mobilefacenet", "--steps", "1", "--turns", "1", "--matmul", "256"),
    threads=1,  # waits for no other on a busy machine
    too_large={"batch_size_per_device": 4096, "memory": "1GiB"},
    limit={
        "search": {"iterations": 1, "batch_size_per_device": {"granularity": 2, "upper": 2}},
        "memory": "2GiB",
    },
)


class StageError(Exception):
    """A stage did not do what it is for; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the session: `expected` and `limit` in seconds on one H200; `limit` also on a CPU."""

    name: str
    expected: int
    limit: int
    what: str
    do: Callable[[Session], dict[str, Any]]


@dataclass(kw_only=True)
class Session:
    """What the stages share: the folders, the interpreters, and what they found."""

    sizes: Sizes
    out: Path
    torch_python: str
    jax_python: str
    seconds: float
    started: float = field(default_factory=time.monotonic)
    stage_ends: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    compiling: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)  # started, and not seen to end

    @property
    def work(self) -> Path:
        """Where everything is made that the evidence holds."""
        return self.out.parent / f"{self.out.name}-work"

    @property
    def left(self) -> float:
        """Seconds for stages."""
        return self.seconds - RESERVE_SECONDS - (time.monotonic() - self.started)

    @property
    def version(self) -> str:
        """PyTorch's, as it prints it."""
        return str(self.found["torch_version"])

    @property
    def options(self) -> dict[str, Any]:
        """PyTorch's: all is eager where torch.compile does not work."""
        return {"compile": False} if self.found.get("facts", {}).get("compile_error") else {}

    @property
    def once(self) -> dict[str, Any]:
        """What is measured, in one run a case."""
        return self.sizes.measure | {"repeats": 1}

    def environment(self) -> dict[str, str]:
        threads = {} if self.sizes.threads == "auto" else {"OMP_NUM_THREADS": str(self.sizes.threads)}
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.work / "cache")}
        return {**os.environ, **threads, **cache, "TRITON_CACHE_DIR": str(self.work / "cache" / "triton")}

    def start(self, argv: Sequence[str | Path], *, log: str, **variables: str) -> subprocess.Popen[bytes]:
        """A command in a session of its own, in the work folder; its output goes to a log."""
        with (self.work / "logs" / f"{log}.log").open("ab") as output:
            output.write(f"$ {' '.join(map(str, argv))}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [str(part) for part in argv],
                cwd=self.work,
                env={**self.environment(), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes], *, log: str, good: Sequence[int] = (0,)) -> int:
        """Wait until it ends, at most until the stage's limit; StageError where it did not end well."""
        try:
            code = process.wait(max(1.0, self.stage_ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            stop(process)
            raise StageError(f"stopped at its limit; see logs/{log}.log") from None
        self.running.remove(process)
        if code not in good:
            last = (self.work / "logs" / f"{log}.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise StageError(f"exit code {code}: {''.join(last)[:200]}")
        return code

    def dlperf(self, *arguments: str | Path, log: str, good: Sequence[int] = (0,)) -> int:
        """Run a command of dlperf."""
        argv = [sys.executable, "-m", "dlperf", *arguments]
        return self.finish(self.start(argv, log=log), log=log, good=good)

    def probe(self, *arguments: str | Path, log: str) -> subprocess.Popen[bytes]:
        """Start `gpu_probe.py` in PyTorch's interpreter."""
        argv = [self.torch_python, ROOT / "benchmarks/gpu_probe.py", *arguments]
        return self.start(argv, log=log, PYTHONPATH=str(ROOT))

    def sweep(self, name: str, **axes: Any) -> Path:
        """A sweep file of this session: one device, PyTorch as it is here."""
        content = {
            "experiment": self.sizes.experiment,
            "frameworks": [{"name": "pytorch", "version": self.version, "python": self.torch_python}],
            "topology": "1n1g",
            "device": self.sizes.device,
            "batch_size_per_device": self.sizes.batch,
            "num_classes": self.sizes.classes[0],
            "precision": self.sizes.precisions[0],
            "measure": self.sizes.measure,
            "threads_per_device": self.sizes.threads,
            "limits": {"time": "4m", "stall": "3m"},
            "options": {"pytorch": self.options},
            **axes,
        }
        if "partial_fc" in content.get("parallelism", ()):
            content["sample_ratio"] = 0.1
        path = self.work / "sweeps" / f"{name}.yaml"  # JSON is YAML
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path

    def case_files(self, sweep: Path) -> list[Path]:
        """The case file of every case of a sweep."""
        from dlperf.adapters.registry import load_adapters  # noqa: PLC0415 - `--plan` needs no dlperf
        from dlperf.plan.load import load_sweep  # noqa: PLC0415
        from dlperf.plan.machine import detect_machine  # noqa: PLC0415
        from dlperf.plan.plan import make_plan  # noqa: PLC0415

        adapters = load_adapters()
        loaded = load_sweep(str(sweep), adapters=adapters, folder=self.work)
        plan = make_plan(loaded, adapters=adapters, machine=detect_machine(), cluster=None)
        files = []
        for number, item in enumerate(plan.cases):
            files.append(self.work / "cases" / f"{sweep.stem}{number}.json")
            files[-1].write_text(item.case.model_dump_json())
        return files

    def run(self, sweep: Path, *, good: Sequence[int] = (0,)) -> dict[str, Any]:
        """`dlperf run`; the figures of its runs."""
        results = self.work / "results" / sweep.stem
        self.dlperf("run", sweep, "--results", results, log=sweep.stem, good=good)
        return {"runs": self.runs(results)}

    def runs(self, results: Path) -> list[dict[str, Any]]:
        """The runs of a results folder, flat."""
        from dlperf.results.store import read_results  # noqa: PLC0415 - as above

        rows = []
        for stored in read_results(results).runs:
            result, case = stored.result, stored.result.case
            figures = result.figures
            rate = None if figures is None else figures.samples_per_sec
            flops = (rate or 0.0) * (result.engine.training_flops_per_sample or 0)
            of_machine = self.found.get("facts", {}).get("flops_per_second", {}).get(case.precision)
            rows.append(
                {
                    "case": result.case.case_id,
                    "framework": case.framework,
                    "parallelism": case.parallelism,
                    "precision": case.precision,
                    "batch": case.batch_size_per_device,
                    "classes": case.num_classes,
                    "compiled": result.engine.facts.get("compiled"),
                    "repeat": result.repeat,
                    "status": result.status.value,
                    "reason": result.reason,
                    "samples_per_second": rate,
                    "model_flops_per_second": flops or None,
                    "share_of_measured_rate": flops / of_machine if flops and of_machine else None,
                    "peaks": {} if figures is None else figures.peaks,
                    "loss": None if figures is None else figures.loss_last,
                    "seconds": result.seconds,
                    **{key: getattr(result.telemetry, key, None) for key in TELEMETRY},
                }
            )
        return rows


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a command and its children to end; then end them."""
    for name, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, name)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def facts(session: Session) -> dict[str, Any]:
    (case,) = session.case_files(session.sweep("facts", precision="fp32"))
    answer = session.work / "facts.json"
    session.finish(session.probe("facts", case, answer, log="facts"), log="facts")
    content: dict[str, Any] = json.loads(answer.read_text())
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query"]
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        (session.work / "nvidia-smi.txt").write_text(said)
    return {"facts": content}


def doctor(session: Session) -> dict[str, Any]:
    session.dlperf("doctor", log="doctor", good=(0, 5))  # 5: no environment could be made
    return {"doctor": (session.work / "logs" / "doctor.log").read_text().splitlines()[1:]}


def start_compiling(session: Session) -> dict[str, Any]:
    """Start to compile what the runs need, all at once; the alignment runs beside it."""
    for sweep in (runs_sweep(session), precisions_sweep(session)):
        for file in session.case_files(sweep):
            name = f"compile_{file.stem}"
            session.compiling[name] = session.probe("compile", file, log=name)
    return {}


def wait_for_compiling(session: Session) -> dict[str, Any]:
    """Wait for it, so that nothing runs beside what is measured."""
    try:
        for name, process in session.compiling.items():
            session.finish(process, log=name)
    finally:
        for process in session.compiling.values():
            if process.poll() is None:
                stop(process)
    return {}


def align(session: Session) -> dict[str, Any]:
    """Every precision against the CPU's float64 reference, all at once: nothing here is timed."""
    processes = {}
    for precision in session.sizes.aligned_precisions:
        argv = [
            sys.executable, "-m", "dlperf", "align", session.sizes.aligned, "--device", session.sizes.device,
            "--frameworks", f"pytorch=={session.version}", "--python", f"pytorch={session.torch_python}",
            "--reference", "always", "--precision", precision, *session.sizes.align,
            "--out", session.work / "results" / f"align_{precision}",
        ]  # fmt: skip
        # One host lock would make them wait for each other.
        lock = str(session.work / f"align_{precision}.lock")
        processes[precision] = session.start(argv, log=f"align_{precision}", DLPERF_HOST_LOCK=lock)
    problems = []
    for precision, process in processes.items():
        try:
            session.finish(process, log=f"align_{precision}")
        except StageError as error:
            problems.append(f"{precision}: {error}")
    texts = {
        precision: (session.work / "logs" / f"align_{precision}.log").read_text() for precision in processes
    }
    session.found["align"] = texts
    if problems:
        raise StageError("; ".join(problems))
    return {}


def runs_sweep(session: Session) -> Path:
    return session.sweep("runs", parallelism=list(session.sizes.parallelisms))


def precisions_sweep(session: Session) -> Path:
    others = list(session.sizes.precisions[1:])
    return session.sweep("precisions", parallelism=["partial_fc"], precision=others, measure=session.once)


def engines(session: Session) -> dict[str, Any]:
    """JAX has no part in another stage: it need not be there."""
    ask = [session.jax_python, "-c", "import jax; print(jax.__version__)"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"{session.jax_python} has no JAX: {done.stderr.strip().splitlines()[-1]}")
    jax = {"name": "jax", "version": done.stdout.strip(), "python": session.jax_python}
    pytorch = {"name": "pytorch", "version": session.version, "python": session.torch_python}
    sweep = session.sweep(
        "engines",
        frameworks=[pytorch, jax],
        parallelism=["partial_fc"],
        precision=list(session.sizes.engines_precisions),
        measure=session.once,
    )
    return session.run(sweep)


def turns(session: Session) -> dict[str, Any]:
    answer = session.work / "turns.json"
    sizes = session.sizes
    argv = [
        sys.executable, ROOT / "benchmarks/pytorch_gpu.py", "--python", session.torch_python,
        "--precision", sizes.precisions[0], "--batch", str(sizes.batch), "--classes", str(sizes.classes[0]),
        "--options", json.dumps(session.options), "--json", answer, *sizes.turns,
    ]  # fmt: skip
    session.finish(session.start(argv, log="turns"), log="turns")
    return {
        "turns": json.loads(answer.read_text()),
        "turns_text": (session.work / "logs/turns.log").read_text(),
    }


def out_of_memory(session: Session) -> dict[str, Any]:
    sweep = session.sweep("oom", measure=session.once, **session.sizes.too_large)
    found = session.run(sweep, good=(0, 3))
    states = [row["status"] for row in found["runs"]]
    session.found.setdefault("runs", []).extend(found["runs"])
    if states != ["oom"]:
        raise StageError(f"a batch that cannot fit ended as {', '.join(states)}")
    return {}


def million(session: Session) -> dict[str, Any]:
    classes = session.sizes.classes[1]
    sweep = session.sweep("classes", parallelism=["partial_fc"], num_classes=classes, measure=session.once)
    return session.run(sweep)


def profile(session: Session) -> dict[str, Any]:
    case = session.case_files(runs_sweep(session))[0]
    answer = session.work / "profile.json"
    session.finish(session.probe("profile", case, answer, log="profile"), log="profile")
    return {"profile": json.loads(answer.read_text())}


def limit(session: Session) -> dict[str, Any]:
    """The largest batch, eager: every batch of a search would be compiled."""
    sweep = session.sweep("limit", batch_size_per_device="max", measure=session.once, **session.sizes.limit)
    found = session.run(sweep, good=(0, 3))
    results = session.work / "results" / "limit"
    files = sorted(results.glob("limits/*/limit.json"))
    if not files:
        raise StageError("no limit.json")
    record = json.loads(files[0].read_text())
    probes = [
        {key: probe.get(key) for key in ("value", "full", "status", *PEAKS)} for probe in record["probes"]
    ]
    session.found["limit"] = {"status": record["status"], "reason": record["reason"], "probes": probes}
    if record["status"] in {"broken", "nothing_trains"}:
        raise StageError(record["reason"])
    return found


def runs(session: Session) -> dict[str, Any]:
    return session.run(runs_sweep(session))


def precisions(session: Session) -> dict[str, Any]:
    return session.run(precisions_sweep(session))


# Name, expected seconds, limit, function, what it does.
STAGES = tuple(
    Stage(name=name, expected=expected, limit=limit, what=what, do=do)
    for name, expected, limit, do, what in (
        ("facts", 25, 90, facts, "device, versions, TF32 proof, measured rates"),
        ("doctor", 3, 60, doctor, "`dlperf doctor`"),
        ("compile", 2, 60, start_compiling, "start compiling for the runs, all at once"),
        ("align", 70, 180, align, "R18 in fp16, bf16 and fp32 against float64 on the CPU"),
        ("compiled", 50, 120, wait_for_compiling, "wait for what is still compiling"),
        ("runs", 110, 240, runs, "R100 fp16, batch 64: Partial FC and data parallel, twice"),
        ("turns", 70, 180, turns, "upstream's recipe beside ours, in turns"),
        ("oom", 20, 90, out_of_memory, "a batch that cannot fit ends as `oom`"),
        ("precisions", 60, 180, precisions, "R100 in bf16 and fp32, Partial FC"),
        ("classes", 40, 120, million, "R100 fp16 with a million classes"),
        ("profile", 30, 120, profile, "kernels of one step"),
        ("limit", 100, 300, limit, "the largest batch, searched and measured (eager)"),
        ("engines", 240, 420, engines, "R100 in fp16, bf16 and fp32, Partial FC: PyTorch beside JAX"),
    )
)


def attempt(session: Session, stage: Stage) -> None:
    """Run a stage and record how it ended."""
    on_gpu = session.sizes.device == "cuda"
    row = {"stage": stage.name, "status": "ok", "reason": "", "seconds": 0.0}
    session.stages.append(row)
    if session.left < (stage.expected / 2 if on_gpu else 1):
        row |= {"status": "skipped", "reason": f"{max(0, session.left):.0f} s were left"}
        return
    start = time.monotonic()
    session.stage_ends = start + (min(stage.limit, session.left) if on_gpu else session.left)
    try:
        for key, value in stage.do(session).items():
            if key == "runs":
                session.found.setdefault(key, []).extend(value)
            else:
                session.found[key] = value
    except Exception as error:  # noqa: BLE001 - the next stage runs whatever happened to this one
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}".removeprefix("StageError: ")}
    row["seconds"] = round(time.monotonic() - start, 1)


def write_out(session: Session) -> None:
    """The summary, and everything else in one archive."""
    content = {"stages": session.stages, **session.found}
    (session.out / "summary.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    (session.out / "summary.md").write_text(summary(content))
    with tarfile.open(session.out / "evidence.tar.gz", "w:gz") as archive:
        for path in sorted(session.work.iterdir()):
            if path.name != "cache" and not path.name.endswith(".lock"):
                archive.add(path, arcname=path.name)


def plan_text() -> str:
    """The stages with their expected seconds on one H200, and when each would begin."""
    lines, begins = [f"{'stage':12}{'begins':>8}{'expected':>10}{'limit':>7}  what"], 0
    for stage in STAGES:
        lines.append(f"{stage.name:12}{begins:>8}{stage.expected:>10}{stage.limit:>7}  {stage.what}")
        begins += stage.expected
    lines.append(
        f"{'end':12}{begins:>8}  seconds; a session stops by itself after {SECONDS}: what is left is skipped"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="One prepared run on a machine with a GPU.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="these and facts alone; default: all")
    parser.add_argument("--plan", action="store_true", help="print the stages and their expected times")
    parser.add_argument("--out", type=Path, help="folder for the summary and the evidence")
    parser.add_argument("--torch-python", help="the interpreter that has PyTorch")
    parser.add_argument("--jax-python", help="the interpreter that has JAX; default: the same")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the whole session")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a tiny network")
    options = parser.parse_args()
    if options.plan:
        print(plan_text())
        return
    unknown = set(options.stages) - {stage.name for stage in STAGES}
    if unknown or options.out is None or options.torch_python is None:
        parser.error(f"unknown stages: {', '.join(unknown)}" if unknown else "give --out and --torch-python")
    sys.exit(hold(options))


def hold(options: argparse.Namespace) -> int:
    """Hold the session; 0 where no stage failed."""
    if options.dry_run:  # on one core, where no thread spins while it waits for another
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    out = options.out.absolute()
    session = Session(
        sizes=ON_CPU if options.dry_run else ON_GPU,
        out=out,
        torch_python=options.torch_python,
        jax_python=options.jax_python or options.torch_python,
        seconds=options.seconds,
    )
    out.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "sweeps", "cases", "results", "experiments", "cache"):
        (session.work / name).mkdir(parents=True, exist_ok=True)
    for name, content in (("tiny", TINY), ("r18", R18)):
        (session.work / "experiments" / f"{name}.yaml").write_text(json.dumps(content, indent=1) + "\n")
    ask = [options.torch_python, "-c", "import torch; print(torch.__version__)"]
    session.found["torch_version"] = subprocess.run(
        ask, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()[-1]
    chosen = [stage for stage in STAGES if not options.stages or stage.name in {"facts", *options.stages}]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for stage in chosen:
            attempt(session, stage)
            print(json.dumps(session.stages[-1]), flush=True)
            write_out(session)
    finally:
        for process in session.running:
            stop(process)
    report(session)
    write_out(session)
    print((out / "summary.md").read_text())
    return int(any(row["status"] == "failed" for row in session.stages))


def report(session: Session) -> None:
    """`dlperf report` over all runs."""
    session.stage_ends = time.monotonic() + RESERVE_SECONDS
    folders = sorted(path.parent for path in session.work.glob("results/*/plan.lock.json"))
    if not folders:
        return
    try:
        session.dlperf("report", *folders, "--out", session.work / "report.md", log="report")
        shutil.copy(session.work / "report.md", session.out)
    except StageError as error:
        session.stages.append({"stage": "report", "status": "failed", "reason": str(error), "seconds": 0.0})


if __name__ == "__main__":
    main()
