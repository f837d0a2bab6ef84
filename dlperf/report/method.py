"""How the results were measured, in sentences: what the cases say first, then what holds of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.text import plural, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.plan.sweep import Order
    from dlperf.report.text import Text
    from dlperf.report.view import View
    from dlperf.results.noise_profile import NoiseProfile
    from dlperf.results.query import Loaded

_ALWAYS = (
    say("Rate of a run = sum of samples / sum of seconds over its measured iterations, read from its log."),
    say(
        "Figure of a case = median over its good runs. Beside it stand the smallest and the largest run, the "
        "coefficient of variation (CV) and the 95 % t interval for the mean of the runs. No run is dropped "
        "as an outlier. Fewer than 2 good runs give no interval."
    ),
    say(
        "Speedup = figure / figure of 1 node with 1 device, same framework and batch a device. Scaling "
        "efficiency = speedup / number of devices."
    ),
    say(
        "Ratio = figure / figure of the framework behind the slash. In parentheses stands the 95 % interval "
        "for the ratio of the geometric means (Welch, on logarithms): when it holds 1.00, these runs do not "
        "tell the two apart."
    ),
    say(
        "Model GFLOP/s = samples/s x the FLOPs that a training sample needs by arithmetic (3 forward passes, "
        "2 FLOPs a multiply-accumulate). Its share is of the best float32 matrix product that any framework "
        "here reached on one device of this hardware, times the number of devices. It is no hardware "
        "utilisation: an algorithm may need fewer FLOPs."
    ),
    say(
        "Loss is that of the first and the last iteration of the first good run: a check that something was "
        "trained, no measure of quality. The training data is synthetic unless a table says that it is "
        "not known."
    ),
)


def method(loaded: Loaded, view: View, noise_profile: NoiseProfile | None) -> tuple[Text, ...]:
    """The sentences; the ways of measuring each once, in the order of the cases."""
    return (
        *_windows(loaded),
        *_orders(loaded),
        *_ALWAYS,
        *_noise(loaded, noise_profile),
        *_cost(view),
    )


def _windows(loaded: Loaded) -> Iterator[Text]:
    windows = dict.fromkeys(
        (figure.case.measure.warmup_iterations, figure.measured_iterations) for figure in loaded.figures
    )
    for warmup, measured in windows:
        if measured is None:
            yield say(
                "Of some runs nobody knows how many iterations were to be measured; {warmup} at their start "
                "do not count.",
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


def _orders(loaded: Loaded) -> Iterator[Text]:
    results = loaded.results
    for order, repeats in dict.fromkeys((plan.order, plan.repeats) for plan in results.plans.values()):
        yield say(
            "Planned: {runs} a case, order {order}{meaning}.",
            runs=plural(repeats, "run"),
            order=order,
            meaning=_meaning(order),
        )
    if len(results.plans) < len(results.sweeps):
        yield say("Some results have no plan beside them: the order in which they ran is not known.")


def _meaning(order: Order) -> Text | str:
    if order == "interleaved":
        return say(
            ": the frameworks of a cell take turns, in reversed order from block to block, so that a machine "
            "that drifts hits all of them alike"
        )
    if order == "sequential":
        return say(
            ": all repeats of a case before the next case, so that a machine that drifts does not hit all "
            "frameworks alike"
        )
    return ""


def _noise(loaded: Loaded, noise_profile: NoiseProfile | None) -> Iterator[Text]:
    if noise_profile is None:
        if loaded.results.runs:
            yield say(
                "The noise of these machines was not measured by A/A runs, which compare equal sides; "
                "`dlperf qualify` does."
            )
        return
    days = noise_profile.days
    yield say(
        "Noise of these machines by A/A runs (`dlperf qualify`, {sessions}{when}): {alarms} of {splits} "
        "comparisons of equal sides raised a false alarm. A/A noise floor = the difference that 19 of 20 "
        "comparisons of equal sides, {runs} a side, stay below.",
        sessions=plural(len(noise_profile.sessions), "session"),
        when="" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} - {days[-1]}",
        alarms=noise_profile.false_alarms,
        splits=noise_profile.splits,
        runs=" / ".join(map(str, noise_profile.runs)),
    )


def _cost(view: View) -> Iterator[Text]:
    if view.price_per_device_hour is not None:
        yield say(
            "Cost of a million samples = hours that they take x devices x {price} a device and hour, as it "
            "was given; CPU, memory and disk have no price of their own.",
            price=f"{view.price_per_device_hour:g}",
        )
