"""Interference from the events of ranks, and the status `disturbed` that follows from it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import log_text, make_case, write_run

from dlperf.logs.events import Event, event_line, read_events
from dlperf.plan.case import DeviceKind, Measure, Topology
from dlperf.results.extract import extract
from dlperf.results.interference import interference_line, interference_of
from dlperf.results.schema import Interference, Status
from frameworks.common.events import EventLog

QUIET = (1.0,) * 6


def counters(
    *,
    run: float,
    wait: float,
    busy: float,
    steal: float = 0.0,
    machine_busy: float = 0.0,
    cpus: tuple[int, ...] = (0, 1),
    machine: str = "m",
) -> dict[str, Any]:
    return {
        "seconds": 1.0,
        "run_seconds": run,
        "wait_seconds": wait,
        "busy_seconds": busy,
        "steal_seconds": steal,
        "machine_busy_seconds": machine_busy,
        "machine_cpus": 2,
        "pressure_seconds": None,
        "cpus": list(cpus),
        "machine": machine,
    }


def of(*ranks: Any, device: DeviceKind = "cpu") -> Interference | None:
    lines = {rank: event_line("interference", value, {"kind": "train"}) for rank, value in enumerate(ranks)}
    events: dict[int, list[Event]] = {rank: list(read_events([line])) for rank, line in lines.items()}
    return interference_of(events, device=device)


def measured(*ranks: dict[str, Any], device: DeviceKind = "cpu") -> Interference:
    found = of(*ranks, device=device)
    assert found is not None
    return found


def test_a_quiet_run_has_a_share_near_zero() -> None:
    assert measured(counters(run=1.98, wait=0.02, busy=2.0)).share == pytest.approx(0.01)


def test_beside_three_busy_loops_most_of_the_time_is_taken() -> None:
    """As measured on 2 CPUs: threads waited for 65 % of their time, and others did 66 % of the work."""
    assert measured(counters(run=0.708, wait=1.306, busy=2.05)).share == pytest.approx(0.648, abs=0.001)


def test_threads_that_wait_for_each_other_are_not_disturbed() -> None:
    """Four ranks share two CPUs: each waits half of its time, and nobody else runs."""
    found = measured(*[counters(run=0.5, wait=0.5, busy=2.0)] * 4)
    assert found.waited == pytest.approx(0.5)
    assert found.share == 0.0


def test_ranks_of_other_machines_do_not_explain_the_work_on_these_cpus() -> None:
    here, there = counters(run=1.0, wait=1.0, busy=2.0), counters(run=1.0, wait=0.0, busy=1.0, machine="n")
    assert measured(here, there).share == pytest.approx(0.5)


def test_work_on_cpus_that_the_rank_does_not_need_is_no_interference() -> None:
    found = measured(counters(run=1.0, wait=0.0, busy=2.0))
    assert (found.others, found.share) == (0.5, 0.0)


def test_work_on_other_cpus_slows_a_cpu_device_down_and_not_a_gpu() -> None:
    """Two CPUs of a virtual machine may be halves of a core, which nothing there shows."""
    beside = counters(run=1.0, wait=0.0, busy=1.0, cpus=(0,), machine_busy=1.52)
    found = measured(beside)
    assert (found.crowd, found.share) == (pytest.approx(0.25), pytest.approx(0.25))
    found = measured(beside, device="cuda")
    assert (found.crowd, found.share) == (pytest.approx(0.25), 0.0)


def test_a_tick_of_each_cpu_is_no_crowd() -> None:
    assert measured(counters(run=0.09, wait=0.0, busy=0.1, machine_busy=0.11)).crowd == pytest.approx(0.0)


def test_the_rank_that_was_disturbed_most_counts() -> None:
    calm, disturbed = (
        counters(run=1.0, wait=0.0, busy=1.0, cpus=(0,)),
        counters(run=0.5, wait=0.5, busy=1.0, cpus=(1,)),
    )
    assert measured(calm, disturbed).share == pytest.approx(0.5)


def test_what_other_virtual_machines_take_counts_too() -> None:
    found = measured(counters(run=1.0, wait=0.0, busy=2.0, steal=1.0))
    assert (found.stolen, found.share) == (0.5, 0.5)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        counters(run=-1.0, wait=0.0, busy=1.0),
        counters(run=1.0, wait=0.0, busy=1.0) | {"cpus": "0"},
        counters(run=1.0, wait=0.0, busy=1.0) | {"busy_seconds": None},
    ],
)
def test_an_event_that_makes_no_sense_is_no_measurement(value: Any) -> None:
    assert of(value) is None


@given(
    ranks=st.lists(
        st.builds(
            counters,
            run=st.floats(0, 1e6),
            wait=st.floats(0, 1e6),
            busy=st.floats(0, 1e6),
            steal=st.floats(0, 1e6),
            machine_busy=st.floats(0, 1e6),
            cpus=st.lists(st.integers(0, 7), max_size=4).map(tuple),
            machine=st.sampled_from(["m", "n"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_shares_are_between_0_and_1_whatever_was_counted(ranks: list[dict[str, Any]]) -> None:
    found = measured(*ranks)
    for share in (found.share, found.waited, found.others, found.stolen, found.crowd):
        assert 0 <= share <= 1


def disturbed_log(case: Any, *, share: float) -> str:
    text = io.StringIO(log_text(case, seconds=QUIET)).getvalue()
    stream = io.StringIO()
    value = counters(run=1 - share, wait=share, busy=1.0)
    EventLog(0, stream).event("interference", value, kind="train")
    return text + stream.getvalue()


def test_a_run_above_the_limit_is_disturbed_and_has_no_figure(tmp_path: Path) -> None:
    case = make_case()
    result = extract(write_run(tmp_path, case, log=disturbed_log(case, share=0.25))).result
    assert (result.status, result.figures) == (Status.DISTURBED, None)
    assert result.reason == (
        "other work took 25.0% of its CPU time; the limit is 2.0% (measure.max_interference)"
    )


def test_a_run_below_the_limit_keeps_its_figure_and_the_share(tmp_path: Path) -> None:
    case = make_case()
    result = extract(write_run(tmp_path, case, log=disturbed_log(case, share=0.01))).result
    assert result.status is Status.OK
    assert result.interference is not None
    assert result.interference.share == pytest.approx(0.01)


def test_the_sweep_sets_the_limit_and_the_case_keeps_its_name(tmp_path: Path) -> None:
    case = make_case()
    lenient = make_case(measure=Measure(warmup_iterations=2, measured_iterations=4, max_interference=0.5))
    assert case.case_id == lenient.case_id
    folder = write_run(tmp_path, lenient, log=disturbed_log(lenient, share=0.25))
    assert extract(folder).result.status is Status.OK


def test_a_log_without_counters_is_not_measured_and_not_disturbed(tmp_path: Path) -> None:
    result = extract(write_run(tmp_path, make_case())).result
    assert (result.status, result.interference) == (Status.OK, None)


def test_a_run_that_failed_stays_failed(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=1))
    folder = write_run(tmp_path, case, log=disturbed_log(case, share=0.9), outcome={"reason": "time_limit"})
    assert extract(folder).result.status is Status.TIMEOUT


def test_interference_in_words(tmp_path: Path) -> None:
    case = make_case()
    result = extract(write_run(tmp_path, case, log=disturbed_log(case, share=0.01))).result
    assert interference_line(result) == "1.0% of its CPU time taken by other work"
    unmeasured = result.model_copy(update={"interference": None})
    assert interference_line(unmeasured) == "not measured"
