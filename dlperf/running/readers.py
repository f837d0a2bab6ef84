"""An engine's own reader of a data set, run alone: here, in its environment, under the supervisor."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dlperf.adapters.base import PREFETCHED_BATCHES, Adapter, RankCommand
from dlperf.adapters.registry import load_adapters
from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import shipped_root
from dlperf.layout import log_files
from dlperf.logs.events import Event, read_events
from dlperf.logs.failures import classify
from dlperf.logs.text import read_lines
from dlperf.plan.case import Case, DataSet, Loss, Measure, Topology, Workload
from dlperf.results.run_outcome import log_lines
from dlperf.running.launch import free_port, local_launch
from dlperf.running.supervision import Interrupts
from dlperf.running.unmeasured import run_to_its_end, write_launch

WATCH: Final = "frameworks.common.data_watch"
_TRAINING, _READING = ".train", ".data"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


_WARMUP: Final = 2 * PREFETCHED_BATCHES
_MOST_IMAGES: Final = 20_000
_TIME_LIMIT_SECONDS: Final = 3600


class ReaderError(Exception):
    """Why a reader read nothing, as one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Whose reader runs, and where it is installed."""

    adapter: Adapter
    version: str
    python: Path  # the interpreter of its environment
    code: Path  # the folder that holds `frameworks/`


def reading_case(
    engine: Engine, data: DataSet, *, threads: int, batch_size: int, batches: int, warmup: int = 0
) -> Case:
    """A case of one device that reads `batches` batches behind `warmup` ones; its network does not matter."""
    workload = Workload(
        experiment="reading",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset=data.name,
        loss=Loss(kind="softmax"),
    )
    return Case(
        framework=engine.adapter.name,
        version=engine.version,
        workload=workload,
        parallelism="data",
        topology=Topology(nodes=1, devices_per_node=1),
        device="cpu",
        batch_size_per_device=batch_size,
        num_classes=data.classes,
        threads_per_device=threads,
        measure=Measure(warmup_iterations=warmup, measured_iterations=batches),
        data=data,
    )


def read_alone(
    engine: Engine,
    case: Case,
    folder: Path,
    *,
    arguments: tuple[str, ...] = (),
    time_limit_seconds: float,
    interrupts: Interrupts,
) -> dict[str, Any]:
    """Run the reader in `folder`, which is emptied, with all threads of the case; its events' values by key.

    `arguments` are those of frameworks/common/read_alone.py. ReaderError with the reason where it cannot
    read the case or failed; Interrupted after a signal; InfrastructureError where the supervisor failed.
    """
    reason = engine.adapter.unsupported(case)
    if reason is not None:
        raise ReaderError(f"unsupported: {reason}")
    write_launch(
        folder,
        case,
        adapter=engine.adapter,
        node=local_launch(folder, python=engine.python, code=engine.code),
        port=free_port(),
        commands=lambda training: [_reading(command, case, arguments) for command in training],
        time_limit_seconds=time_limit_seconds,
    )
    outcome = run_to_its_end(folder, time_limit_seconds=time_limit_seconds, interrupts=interrupts)
    if outcome.reason != "completed":
        failure = classify(log_lines(folder), outcome)
        raise ReaderError(failure.evidence.text if failure else outcome.detail or outcome.reason)
    return {event.key: event.value for event in _events(folder)}


def _reading(command: RankCommand, case: Case, arguments: tuple[str, ...]) -> RankCommand:
    """The reader beside the training program that the adapter starts under its watch."""
    argv = list(command.argv)
    if WATCH not in argv:
        raise ReaderError("its program has no reader of data sets")
    module = argv.index(WATCH) + 1
    argv[module] = argv[module].removesuffix(_TRAINING) + _READING
    threads = dict.fromkeys(_THREAD_VARIABLES, str(case.threads_per_device))
    return replace(command, argv=(*argv, *arguments), env={**command.env, **threads})


def _events(folder: Path) -> Iterator[Event]:
    for path in log_files(folder).values():
        yield from read_events(read_lines(path))


def engines_of(names: Sequence[str], *, held: ExitStack, say: Callable[[str], None]) -> list[Engine]:
    """Each framework whose environment can be made, in its default version; `say` is told of the others.

    `held` keeps the environments from being removed. EnvironmentUnavailable where none is left.
    """
    engines = []
    for name in names:
        adapter = load_adapters()[name]
        version = adapter.versions[0]
        try:
            environment = ensure(adapter.environment(version, "cpu"), report=say)
        except EnvironmentUnavailable as error:
            say(f"{name}: {error}")
            continue
        held.enter_context(environment.in_use())
        engines.append(
            Engine(adapter=adapter, version=version, python=environment.python, code=shipped_root())
        )
    if not engines:
        raise EnvironmentUnavailable("no framework to measure")
    return engines


def measured(
    engine: Engine,
    data: DataSet,
    folder: Path,
    *,
    threads: int,
    batch_size: int,
    images: int | None,
    interrupts: Interrupts,
) -> dict[str, Any]:
    """How fast a reader reads, as a row of a table; `error` says why it did not.

    `images` are those measured, behind some that warm up; None: all, and at most 20000.
    """
    size = min(batch_size, data.images)
    wanted = images or min(data.images - _WARMUP * size, _MOST_IMAGES)
    batches = max(_WARMUP + 1, 2 * threads + 1, -(-wanted // size))
    row: dict[str, Any] = {
        "framework": engine.adapter.name,
        "version": engine.version,
        "read": data.read,
        "threads": threads,
        "images": batches * size,
        "images_per_second": None,
        "mib_per_second": None,
        "resident_share": None,
        "file_system": None,
        "error": None,
    }
    case = reading_case(
        engine, data, threads=threads, batch_size=size, batches=batches, warmup=max(_WARMUP, 2 * threads)
    )
    try:
        values = read_alone(
            engine, case, folder, time_limit_seconds=_TIME_LIMIT_SECONDS, interrupts=interrupts
        )
    except ReaderError as error:
        return {**row, "error": str(error)}
    prepared, read = values["data_set"], values["reader_alone"]
    return {
        **row,
        "images_per_second": read["images"] / read["seconds"],
        "mib_per_second": read["read_mib_per_second"],
        "resident_share": prepared["resident_share"],
        "file_system": prepared["file_system"],
    }
