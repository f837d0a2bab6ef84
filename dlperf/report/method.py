"""How the results were measured, in sentences: what the cases say first, then what holds of all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dlperf.plan.case import Case
from dlperf.plan.sweep import Order
from dlperf.report.columns import View
from dlperf.report.comparison import has_choices, version_name
from dlperf.report.numbers import NOT_KNOWN, reach
from dlperf.report.text import Cells, Inline, Table, Text, joined, plain_text, plural, say, table_of
from dlperf.results.noise_profile import NoiseProfile
from dlperf.results.query import Loaded
from dlperf.results.schema import RunEnvironment
from dlperf.results.store import StoredRun

_ALWAYS = (
    say("Rate of a run = sum of samples / sum of seconds over its measured iterations, read from its log."),
    say(
        "Figure of a case = median over its good runs. Beside it stand the smallest and the largest run, the "
        "coefficient of variation (CV) and the 95 % t interval for the geometric mean of the runs, on "
        "logarithms. No run is dropped as an outlier. Fewer than 3 good runs give no interval."
    ),
    say(
        "Speedup = figure / figure of 1 node with 1 device, same framework and batch per device. Scaling "
        "efficiency = speedup / number of devices."
    ),
    say(
        "Ratio = figure / figure of the framework behind the slash. In parentheses stands the 95 % interval "
        "for the ratio of the geometric means (Welch, on logarithms): when it holds 1.00, these runs do not "
        "tell the two apart."
    ),
    say(
        "Model GFLOP/s = samples/s x the FLOPs that a training sample needs by arithmetic (3 forward passes, "
        "2 FLOPs per multiply-accumulate). Its share is of the best float32 matrix product that any "
        "framework here reached on one device of this hardware, times the number of devices. It is no "
        "hardware utilisation: an algorithm may need fewer FLOPs."
    ),
)
_LOSS = say(
    "Loss is that of the first and the last iteration of the first good run: a check that something was "
    "trained, no measure of quality. The training data is synthetic unless a table says that it is "
    "not known."
)
_LOSS_ON_DATA = say(
    "Loss is that of the first and the last iteration of the first good run: a check that something was "
    "trained, no measure of quality. Each table says what data it was trained on."
)
_ORIGINAL = say(
    "An original program measures itself: its rates are those that it prints, over as many iterations as a "
    "line of it covers, and it is ended once enough iterations are measured."
)


def method(loaded: Loaded, view: View, noise_profile: NoiseProfile | None) -> Iterator[Text]:
    """The sentences; the ways of measuring each once, in the order of the cases."""
    yield from _meaning_of_device(loaded)
    yield from _windows(loaded)
    yield from _orders(loaded)
    yield from _threads_on_gpus(loaded)
    yield from _arithmetic(loaded)
    yield from _ALWAYS
    cases = [figure.case for figure in loaded.all_figures]
    yield _LOSS_ON_DATA if has_choices(cases) else _LOSS
    if any(case.source is not None for case in cases):
        yield _ORIGINAL
    if noise_profile is not None:
        yield _noise(noise_profile)
    elif loaded.results.runs:
        yield say(
            "The noise of these machines was not measured by A/A runs, which compare equal sides; "
            "`dlperf qualify` does."
        )
    if view.price_per_device_hour is not None:
        yield say(
            "Cost of a million samples = hours that they take x devices x {price} per device and hour, as it "
            "was given; CPU, memory and disk have no price of their own.",
            price=f"{view.price_per_device_hour:g}",
        )


def _meaning_of_device(loaded: Loaded) -> Iterator[Text]:
    devices = {figure.case.device for figure in loaded.figures}
    if "cpu" in devices:
        yield say("A device of cpu is as many CPU cores as it has threads, where there are enough.")
    if "cuda" in devices:
        yield say("A device of cuda is one GPU.")


def _windows(loaded: Loaded) -> Iterator[Text]:
    windows = dict.fromkeys(
        (figure.case.measure.warmup_iterations, figure.measured_iterations) for figure in loaded.figures
    )
    for warmup, measured in windows:
        if measured is None:
            yield say(
                "How many iterations some runs were to measure is not known; {warmup} at their start do not "
                "count.",
                warmup=plural(warmup, "warm-up iteration"),
            )
            continue
        yield say(
            "A run trains {warmup}, timed and not counted, then {measured}. Loading a batch and copying it "
            "to the device are inside the time; the device is drained only before and after each of the two "
            "windows.",
            warmup=plural(warmup, "warm-up iteration"),
            measured=plural(measured, "measured iteration"),
        )


_MEANINGS: Mapping[Order, Text] = {
    "interleaved": say(
        ": the frameworks of a cell take turns, in reversed order from block to block, so that a machine "
        "that drifts hits all of them alike"
    ),
    "sequential": say(
        ": all repeats of a case before the next case, so that a machine that drifts does not hit all "
        "frameworks alike"
    ),
}


def _orders(loaded: Loaded) -> Iterator[Text]:
    results = loaded.results
    for order, repeats in dict.fromkeys((plan.order, plan.repeats) for plan in results.plans.values()):
        yield say(
            "Planned: {runs} per case, order {order}{meaning}.",
            runs=plural(repeats, "run"),
            order=order,
            meaning=_MEANINGS.get(order, ""),
        )
    if len(results.plans) < len(results.sweeps):
        yield say("Some results have no plan beside them: the order in which they ran is not known.")


def _threads_on_gpus(loaded: Loaded) -> Iterator[Text]:
    """Where they differ: no table says then that all of its cases have the same."""
    threads = {figure.threads_per_device for figure in loaded.figures if figure.case.device == "cuda"}
    known = sorted(count for count in threads if count is not None)
    if len(known) > 1:
        yield say(
            "The cases on GPUs have {threads} CPU threads per device, by case. On a GPU that keeps no two "
            "cases apart.",
            threads=joined(map(str, known)),
        )


def _arithmetic(loaded: Loaded) -> Iterator[Text]:
    """What numbers are computed in, where the programs of dlperf computed them and more than one may be."""
    ours = [run.result.case for run in loaded.results.runs if run.result.imported is None]
    if any(case.device == "cuda" for case in ours):
        yield say(
            "On a GPU float32 products are IEEE float32, and in tables that say so TF32. Each engine "
            "measures it when a run starts, by a matrix product and a convolution; another result ends the "
            "run."
        )
    if any(case.precision != "fp32" for case in ours):
        yield say(
            "fp16 and bf16: the network computes in 16 bits; the classifier, the master weights and their "
            "updates are float32. Between devices gradients travel in float32, unless a table says otherwise."
        )


def _noise(noise_profile: NoiseProfile) -> Text:
    days = noise_profile.days
    return say(
        "Noise of these machines by A/A runs (`dlperf qualify`, {sessions}{when}): {alarms} of {splits} "
        "comparisons of equal sides raised a false alarm. A/A noise floor = the difference that 19 of 20 "
        "comparisons of equal sides, {runs} a side, stay below.",
        sessions=plural(len(noise_profile.sessions), "session"),
        when="" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} - {days[-1]}",
        alarms=noise_profile.false_alarms,
        splits=noise_profile.splits,
        runs=" / ".join(map(str, noise_profile.runs)),
    )


_LONGEST_VALUE = 160
_MOST_NODE_SETS = 40
# Stated in the first columns already.
_NOT_AGAIN = {"name", "version", "python", "caution"}


class EnvironmentTable(NamedTuple):
    """One kind of hardware: its machines, and the frameworks that ran on it."""

    hardware: str
    machine: Table
    placing: Table | None  # which nodes ran what; None where all runs had the same
    software: Table


def environment_tables(loaded: Loaded, *, titles: Mapping[str, str]) -> tuple[EnvironmentTable, ...]:
    """One entry for each kind of hardware that the runs name, in alphabetical order."""
    by_hardware: dict[str, list[StoredRun]] = {}
    for run in loaded.results.runs:
        by_hardware.setdefault(run.hardware, []).append(run)
    return tuple(
        EnvironmentTable(hardware, _machine(runs), _placing(runs, titles), _software(runs, titles))
        for hardware, runs in sorted(by_hardware.items())
    )


def _machine(runs: Sequence[StoredRun]) -> Table:
    environments = [run.environment for run in runs if run.environment is not None]
    nodes = [node for environment in environments for node in environment.nodes]
    unknown = say("unknown hardware: the run folders hold no environment.json that can be read")
    hosts = _each(host for run in runs for host in run.result.nodes) or _each(node.host for node in nodes)
    facts: dict[Text, Inline] = {
        say("hardware"): runs[0].hardware,
        say("environment"): "" if environments else unknown,
        say("hosts"): _cut(hosts),
        say("operating system"): _each(node.system for node in nodes),
        say("kernel"): _each(node.kernel for node in nodes),
        say("frequency governor"): _each(node.governor for node in nodes),
        say("turbo"): _each("on" if node.turbo else "off" for node in nodes if node.turbo is not None),
        say("features in Slurm"): _each(node.features for node in nodes),
        say("load before a run"): _span(
            f"{load:.1f}" for load in sorted(node.load for node in nodes if node.load is not None)
        ),
        say("driver"): _each(node.driver for node in nodes),
        say("threads per device"): _threads(runs),
        say("cores of a rank"): joined(dict.fromkeys(map(_affinity, environments)), " / "),
        say("dlperf"): joined(dict.fromkeys(map(_harness, environments))),
        say("first and last start"): _span(
            sorted(run.result.started_at for run in runs if run.result.started_at)
        ),
    }
    known = ((name, value) for name, value in facts.items() if plain_text(value))
    return table_of(say("machine"), ({say("machine"): name, say("as found"): value} for name, value in known))


def _threads(runs: Sequence[StoredRun]) -> Inline:
    """Every number of them, then that some run's is not known."""
    results = [run.result for run in runs]
    known = [result for result in results if "threads_per_device" not in result.not_known]
    numbers = sorted({result.case.threads_per_device for result in known})
    return joined((*map(str, numbers), *([NOT_KNOWN] if len(known) < len(results) else [])))


def _span(ordered: Iterable[str]) -> Inline:
    """The first and the last; empty without any."""
    values = list(ordered)
    return reach(values[0], values[-1]) if values else ""


def _affinity(environment: RunEnvironment) -> Inline:
    if not environment.cpus:
        return say("not bound")
    ranks = (
        say("rank {rank}: {cores}", rank=rank, cores=",".join(map(str, cpus)))
        for rank, cpus in environment.cpus.items()
    )
    return joined(ranks, "; ")


def _harness(environment: RunEnvironment) -> Inline:
    if environment.git_commit is None:
        return environment.dlperf_version
    return say("{version} at {commit}", version=environment.dlperf_version, commit=environment.git_commit)


def _each(values: Iterable[str | None]) -> str:
    """The different values, in the order in which they first appear."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def _cut(text: str) -> str:
    """As much as one cell can hold, of a list its first parts."""
    if len(text) <= _LONGEST_VALUE:
        return text
    parts, comma, _ = text[:_LONGEST_VALUE].rpartition(", ")
    return f"{parts}, ..." if comma else f"{text[:_LONGEST_VALUE]}..."


def _placing(runs: Sequence[StoredRun], titles: Mapping[str, str]) -> Table | None:
    """Which nodes ran which cases, for machines that are not known to be alike."""
    by_nodes: dict[tuple[str, ...], list[Case]] = {}
    for run in runs:
        if run.result.nodes:
            by_nodes.setdefault(run.result.nodes, []).append(run.result.case)
    rows: list[Cells] = [
        {
            say("nodes"): _cut(", ".join(nodes)),
            say("runs"): str(len(cases)),
            say("cases"): _cut(
                _each(
                    f"{version_name(titles, case.framework, case.version)} {case.topology} "
                    f"batch {case.batch_size_per_device}"
                    for case in cases
                )
            ),
        }
        for nodes, cases in sorted(by_nodes.items())
    ]
    if len(rows) > _MOST_NODE_SETS:
        more = say("and {count} more", count=len(rows) - _MOST_NODE_SETS)
        rows[_MOST_NODE_SETS:] = [{say("nodes"): more, say("runs"): "", say("cases"): ""}]
    return table_of(say("Which nodes ran what"), rows) if len(rows) > 1 else None


def _software(runs: Sequence[StoredRun], titles: Mapping[str, str]) -> Table:
    """What each framework's version said about itself; a fact that changed has several values."""
    facts: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for result in (run.result for run in runs):
        said = facts.setdefault((result.case.framework, result.case.version), {})
        for name, value in result.engine.facts.items():
            said.setdefault(name, {})[_cut(str(value))] = None
    rows: list[Cells] = [
        {
            say("framework"): titles.get(framework, framework),
            say("asked for"): version,
            say("version that ran"): " / ".join(said.get("version", {})) or say("not said"),
            say("Python"): " / ".join(said.get("python", {})) or say("not said"),
            say("what else it said about itself"): "; ".join(
                f"{name} {' / '.join(values)}" for name, values in said.items() if name not in _NOT_AGAIN
            ),
        }
        for (framework, version), said in sorted(facts.items())
    ]
    return table_of(say("software"), rows)
