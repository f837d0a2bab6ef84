"""Whole reports: what stands in them, that it is read as meant, and that equal results give equal bytes."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pytest
from plans import write_plan
from report_pages import PARSER, plain, report, tables
from run_folders import MACHINE, Y1, failed, make_case, store_good_runs, write_run

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.plan.plan import PlanStatus
from dlperf.report.document import Request, build_report, document
from dlperf.report.render import render, write_report
from dlperf.results.query import load
from dlperf.results.schema import Imported, Interference, Node, RankTimes, Status
from dlperf.results.store import read_results, store_run, write_result

if TYPE_CHECKING:
    from pathlib import Path

MXNET = {"framework": "mxnet", "version": "1.9.1"}
ONEFLOW = {"framework": "oneflow", "version": "0.9.0"}
PYTORCH = {"framework": "pytorch", "version": "2.13.0"}


def write(place: Path, *folders: Path) -> None:
    request = Request(paths=folders)
    write_report(build_report(request, report_folder=place.parent), request, place)


def sweep_of_two(folder: Path) -> Path:
    store_good_runs(folder, make_case(**MXNET), [10.0, 10.2, 9.8, 10.1, 9.9])
    store_good_runs(folder, make_case(**ONEFLOW), [5.0, 5.1, 4.9, 5.0, 5.0])
    return folder


def test_the_table_of_2021_with_ratio_and_interval(tmp_path: Path) -> None:
    text = report(sweep_of_two(tmp_path / "y1"))
    assert tables(text)[0] == [
        [
            "node_num",
            "device_num_per_node",
            "batch_size_per_device",
            "MXNet 1.9.1 samples/s",
            "OneFlow 0.9.0 samples/s",
            "OneFlow 0.9.0 / MXNet 1.9.1",
        ],
        ["1", "1", "8", "10.00", "5.000", "0.50 (0.49 to 0.51)"],
    ]
    assert "## y1, data parallel\n" in text
    assert "**On 2 CPU cores, MXNet 1.9.1 is the fastest, 2.00 times the next.**" in text


def test_gpu_columns_are_named_as_in_2021(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(device="cuda"), [100.0, 101.0])
    headings = tables(report(tmp_path / "y1"))[0][0]
    assert headings[:3] == ["node_num", "gpu_num_per_node", "batch_size_per_device"]
    assert "CPU cores" not in report(tmp_path / "y1")


def test_several_topologies_have_speedups(tmp_path: Path) -> None:
    for devices in (1, 2):
        case = make_case(topology=Topology(nodes=1, devices_per_node=devices))
        store_good_runs(tmp_path / "y1", case, [10.0 * devices**0.5] * 2)
    rows = tables(report(tmp_path / "y1"))[0]
    assert [row[1:5] for row in rows] == [
        ["device_num_per_node", "batch_size_per_device", "MXNet 1.9.1 samples/s", "MXNet 1.9.1 speedup"],
        ["1", "8", "10.00", "1.00"],
        ["2", "8", "14.14", "1.41"],
    ]


def test_columns_that_vary_are_shown_and_the_others_are_said_once(tmp_path: Path) -> None:
    for classes in (100, 200):
        store_good_runs(tmp_path / "y1", make_case(num_classes=classes), [10.0])
    text = report(tmp_path / "y1")
    assert tables(text)[0][0][3] == "num_classes"
    assert "- precision: fp32" in text
    assert "- classes:" not in text


def test_the_spread_of_the_repeats_stands_beside_the_figure(tmp_path: Path) -> None:
    rows = tables(report(sweep_of_two(tmp_path / "y1")))[1]
    assert rows[0][3:] == [
        "samples/s",
        "min to max",
        "CV",
        "95 % interval of the mean",
        "good runs",
        "runs without a figure",
    ]
    assert rows[1] == [
        "MXNet 1.9.1",
        "1n1g",
        "8",
        "10.00",
        "9.800 to 10.20",
        "1.58 %",
        "9.805 to 10.20",
        "5",
        "0",
    ]


def test_efficiency_loss_and_memory_stand_in_a_table(tmp_path: Path) -> None:
    rows = tables(report(sweep_of_two(tmp_path / "y1")))[2]
    # 10 samples/s x 2.7 GFLOP a sample, against 70 GFLOP/s measured.
    assert rows[1] == [
        *("MXNet 1.9.1", "1n1g", "8", "0.8000", "0.8000"),
        *("27.00", "39 %", "40.00 to 35.00", "500"),
    ]


def test_where_there_is_no_number_stands_the_status_and_below_its_reason(tmp_path: Path) -> None:
    sweep = tmp_path / "y1"
    store_good_runs(sweep, make_case(**MXNET), [10.0, 10.1])
    log = "loading\nRuntimeError: CUDA out of memory. Tried to allocate 2 GiB\n"
    store_run(write_run(sweep, make_case(**ONEFLOW), log=log, outcome=failed("rank_failed")))
    write_plan(
        sweep,
        [make_case(**MXNET), make_case(**ONEFLOW)],
        others={
            PlanStatus.EXCLUDED: [(make_case(**PYTORCH), "not installed here")],
            PlanStatus.UNSUPPORTED: [(make_case(**PYTORCH, precision="fp16"), "no fp16 on CPU")],
        },
    )
    made = tables(report(sweep))
    assert made[0][1][3:] == ["fp16", "no such case", "no such case", "unsupported", "", ""]
    assert made[0][2][3:] == ["fp32", "10.05", "out of memory", "not measured", "", ""]
    missing_cells = made[3]
    assert [row[2:] for row in missing_cells[1:]] == [
        ["PyTorch 2.13.0", "1n1g", "8", "100", "fp16", "unsupported", "no fp16 on CPU", ""],
        [
            "OneFlow 0.9.0",
            "1n1g",
            "8",
            "100",
            "fp32",
            "out of memory (run 1 of 2)",
            "rank 0 ended with exit code 1: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",
            "logs/rank0.log:2",
        ],
        [
            "OneFlow 0.9.0",
            "1n1g",
            "8",
            "100",
            "fp32",
            "not measured (1 run)",
            "planned and not run yet; dlperf run goes on with the sweep",
            "",
        ],
        ["PyTorch 2.13.0", "1n1g", "8", "100", "fp32", "not measured", "excluded: not installed here", ""],
    ]


def test_equal_results_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    sweep = sweep_of_two(tmp_path / "a" / "y1")
    shutil.copytree(sweep, tmp_path / "another place" / "y1")
    files = []
    for side in ("a", "another place"):
        write(tmp_path / side / "out" / "report.md", tmp_path / side)
        out = tmp_path / side / "out"
        files.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")})
    assert files[0] == files[1]
    assert sorted(files[0]) == [
        "report.md",
        "report_files/y1-data-iterations.png",
        "report_files/y1-data-iterations.svg",
        "report_files/y1-data-throughput.png",
        "report_files/y1-data-throughput.svg",
    ]


INJECTION = "|x|\n# big <img src=x onerror=alert(1)> [a](javascript:b) `c` **d** <!-- e"


def test_nothing_from_a_file_or_a_log_can_mark_up_the_report(tmp_path: Path) -> None:
    sweep = tmp_path / "y1 | <b>bold</b>"
    workload = Y1.model_copy(update={"experiment": INJECTION, "dataset": INJECTION})
    node = MACHINE.model_copy(update={"cpu": INJECTION, "host": INJECTION, "system": INJECTION})
    plain = make_case(workload=workload)
    hostile = make_case(
        workload=workload, framework="evil|<i>", version="1`", options={"<u>": INJECTION}, num_classes=7
    )
    store_good_runs(sweep, plain, [10.0, 10.1], nodes=[node])
    log = f"RuntimeError: out of memory {INJECTION.replace(chr(10), ' ')}\n"
    store_run(write_run(sweep, hostile, log=log, outcome=failed("rank_failed"), nodes=[node]))
    write_plan(
        sweep,
        [plain, hostile],
        others={PlanStatus.EXCLUDED: [(make_case(workload=workload, seed=9), INJECTION)]},
    )
    write(tmp_path / "report.md", sweep)
    rendered = PARSER.render((tmp_path / "report.md").read_text())
    allowed = {"h1", "h2", "h3", "p", "ul", "li", "strong", "code", "span", "blockquote", "a", "img", "table"}
    assert set(re.findall(r"<([a-z0-9]+)", rendered)) <= allowed | {"thead", "tbody", "tr", "th", "td"}
    runs = {quote(str(run.relative_to(tmp_path))) + "/" for run in sweep.glob("runs/*/r*")}
    assert set(re.findall(r'href="([^"]*)"', rendered)) <= {
        "#gaps",
        "#e1",
        "#e2",
        *runs,
        *(f"report_files/{path.name}" for path in (tmp_path / "report_files").iterdir()),
    }
    assert 1 == rendered.count("<!--")  # the record
    assert 1 == rendered.count("-->")
    widths = [{len(row) for row in table} for table in tables((tmp_path / "report.md").read_text())]
    assert all(len(width) == 1 for width in widths)


def test_mixed_hardware_is_separated_and_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [10.0, 10.1])
    other = MACHINE.model_copy(update={"cpu": "Another CPU"})
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [5.0, 5.1], nodes=[other])
    text = report(tmp_path)
    assert "come from 2 kinds of hardware" in text
    assert "What is different here: hardware: Another CPU, 8 cores, 16 GiB." in text
    assert " / MXNet 1.9.1" not in text
    with pytest.raises(UserError, match="different hardware"):
        report(tmp_path, strict=True)


def test_different_threads_are_separated_and_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [10.0, 10.1])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW, threads_per_device=1), [5.0, 5.1])
    text = report(tmp_path)
    assert "## y1, data parallel, threads per device: 1\n" in text
    assert "Not comparable with the other tables" in text
    assert " / MXNet 1.9.1" not in text


def test_what_gpus_compute_in_is_said(tmp_path: Path) -> None:
    """Gradients of another width and another float32 have tables of their own; loss scales are named."""
    half = {"device": "cuda", "precision": "fp16"}
    store_good_runs(tmp_path / "y1", make_case(**MXNET, **half), [5.0], facts={"loss_scale": "dynamic"})
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW, **half), [5.0], facts={"loss_scale": "static 1024"})
    store_good_runs(tmp_path / "y1", make_case(**PYTORCH, **half, gradient_dtype="float16"), [5.0])
    text = report(tmp_path / "y1")
    assert "## y1, data parallel, gradients travel in: float16" in text
    assert "Loss scale in fp16: MXNet 1.9.1 dynamic; OneFlow 0.9.0 static 1024." in text
    assert "Between devices gradients travel in float32, unless a table says otherwise." in text
    assert "On a GPU float32 products are IEEE float32" in text


def test_on_cpu_in_fp32_nothing_is_said_of_arithmetic(tmp_path: Path) -> None:
    text = report(sweep_of_two(tmp_path / "y1"))
    assert not re.search("gradients travel|float32 products are|Loss scale", text)


def test_what_was_skipped_is_named(tmp_path: Path) -> None:
    sweep = sweep_of_two(tmp_path / "y1")
    next((sweep / "runs").glob("mxnet*/r1/result.json")).write_text("{")
    text = report(sweep)
    place = f"y1/runs/{make_case(**MXNET).case_id}/r1/result.json"
    assert f"> - <code>{place}: damaged: not the JSON of a result</code>" in text
    assert tables(text)[1][1][-2:] == ["4", "0"]


def test_a_loss_that_is_not_finite_is_said_and_counted(tmp_path: Path) -> None:
    nan = float("nan")
    store_good_runs(tmp_path / "y1", make_case(), [10.0], losses=[4.0, 3.0, nan, nan, nan, nan])
    text = report(tmp_path)
    assert "MXNet 1.9.1, 1n1g: loss not finite: nan at step 2" in text
    assert tables(text)[2][1][7] == "4.000 to not finite"


def test_threads_that_an_engine_did_not_take_are_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "y1", make_case())
    log = folder / "logs" / "rank0.log"
    log.write_text(log.read_text().replace('"threads": 2', '"threads": 1'))
    store_run(folder)
    assert "was to use 2 threads per device, but MXNet 1.9.1 ran with 1" in report(tmp_path)


def test_more_than_the_measured_matmul_rate_is_explained(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [40.0, 41.0])
    text = report(tmp_path)
    assert tables(text)[1][1][0] == "model FLOP/s stay below the measured rate"
    assert tables(text)[3][1][6] == "156 %"
    assert "an algorithm such as Winograd needs fewer" in text


def test_the_float32_product_is_no_measure_of_another_precision(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(precision="bf16"), [40.0, 41.0])
    text = report(tmp_path)
    assert tables(text)[2][1][6] == "not known"
    assert "Winograd" not in text
    assert "model FLOP/s stay below" not in text


def test_imported_results_are_marked_with_their_method(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    (run,) = read_results(tmp_path).runs
    mark = Imported(
        source="old.log", log="logs/imported.log", sha256="0", dialect="oneflow_face", method="dlperf-2021"
    )
    write_result(run.folder, run.result.model_copy(update={"imported": mark}))
    assert "MXNet 1.9.1 (oneflow_face, method dlperf-2021)" in report(tmp_path)


def test_what_nobody_can_tell_of_imported_results_is_said_to_be_not_known(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(threads_per_device=1), [10.0])
    store_good_runs(tmp_path / "y1", make_case(threads_per_device=12), [10.0])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW, threads_per_device=2), [10.0])
    run = next(run for run in read_results(tmp_path).runs if run.result.case.framework == "oneflow")
    unknown = ("data", "measured_iterations", "seed", "threads_per_device")
    write_result(run.folder, run.result.model_copy(update={"not_known": unknown}))
    text = report(tmp_path)
    assert "- threads per device: not known" in text
    assert "emore (data not known)" in text
    assert "iterations: 2 warm-up, measured: not known" in text
    assert "How many iterations some runs were to measure is not known" in text
    assert "then 4 measured iterations" in text
    assert ["threads per device", "1, 12, not known"] in [row for table in tables(text) for row in table]
    assert "Every engine was to use" not in text


def test_what_a_training_program_warns_of_is_said_below_its_table(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0], facts={"caution": "computes nothing"})
    store_good_runs(tmp_path / "y1", make_case(framework="pytorch"), [10.0])
    text = report(tmp_path)
    assert 1 == text.count("What the training programs warn of: MXNet 1.9.1: computes nothing.")
    assert 1 == text.count("computes nothing")


@pytest.mark.parametrize("form", ["md", "html"])
def test_which_nodes_ran_what_is_said_where_they_differ(tmp_path: Path, form: Literal["md", "html"]) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0, 10.1])
    request = Request(paths=(tmp_path,), form=form)
    for number, run in enumerate(read_results(tmp_path).runs):
        write_result(run.folder, run.result.model_copy(update={"nodes": ("node-a",)}))
        if number:
            assert "Which nodes ran what" not in render(build_report(request), request)
            write_result(run.folder, run.result.model_copy(update={"nodes": ("node-b",)}))
    text = render(build_report(request), request)
    said = {"md": "Which nodes ran what:", "html": "<caption>Which nodes ran what</caption>"}
    assert 1 == text.count(said[form])
    if form == "md":
        rows = next(table for table in tables(text) if table[0] == ["nodes", "runs", "cases"])
        assert ["node-a", "1", "MXNet 1.9.1 1n1g batch 8"] == rows[1]
        assert ["node-b", "1", "MXNet 1.9.1 1n1g batch 8"] == rows[2]


def test_a_cell_holds_as_many_cases_of_a_node_as_fit(tmp_path: Path) -> None:
    for batch in range(1, 21):
        store_good_runs(tmp_path / "y1", make_case(batch_size_per_device=batch), [10.0])
    for run in read_results(tmp_path).runs:
        node = "node-b" if run.result.case.batch_size_per_device == 1 else "node-a"
        write_result(run.folder, run.result.model_copy(update={"nodes": (node,)}))
    rows = next(table for table in tables(report(tmp_path)) if table[0] == ["nodes", "runs", "cases"])
    assert rows[1][2].endswith(", ...")
    assert len(rows[1][2]) <= 170


@pytest.mark.parametrize(
    ("runs", "said"), [(1, "has no interval"), (2, "has no interval"), (3, "With 3 good runs"), (5, "")]
)
def test_few_runs_are_said(tmp_path: Path, runs: int, said: str) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0 + number for number in range(runs)])
    text = report(tmp_path)
    assert said in text
    assert ("--repeats 5" in text) == bool(said)


def test_the_way_of_measuring_is_said(tmp_path: Path) -> None:
    sweep = sweep_of_two(tmp_path / "y1")
    assert "the order in which they ran is not known" in report(sweep)
    write_plan(sweep, [make_case(**MXNET), make_case(**ONEFLOW)], repeats=5)
    text = report(sweep)
    assert "2 warm-up iterations, timed and not counted" in text
    assert "Planned: 5 runs per case, order interleaved" in text
    assert "the order in which they ran is not known" not in text


def test_the_environment_is_said(tmp_path: Path) -> None:
    made = tables(report(sweep_of_two(tmp_path / "y1")))
    facts = dict(made[3][1:])
    assert facts["hardware"] == "Example CPU 3000, 8 cores, 16 GiB"
    assert facts["operating system"] == "Debian 12"
    assert facts["dlperf"] == "0.1.0 at 0123456789ab"
    assert [row[:3] for row in made[4][1:]] == [["MXNet", "1.9.1", "1.9.1"], ["OneFlow", "0.9.0", "0.9.0"]]


def test_a_plan_without_any_run_makes_a_report_of_reasons(tmp_path: Path) -> None:
    write_plan(tmp_path / "y1", [make_case()])
    text = report(tmp_path)
    assert tables(text)[0][1][3] == "not measured"
    assert "Nothing ran." in text


def test_a_template_of_ones_own_escapes_all_the_same(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(workload=Y1.model_copy(update={"experiment": "*e*"})), [10.0])
    template = tmp_path / "mine.md.j2"
    template.write_text("{% for section in document.sections %}{{ section.title }}{% endfor %}")
    assert report(tmp_path, template=template) == "\\*e\\*, data parallel\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{% for %}", r"mine\.md\.j2:1: "),
        (b"a\n{{ document.nothing }}", r"mine\.md\.j2:2: .*nothing"),
        (b"a\n{{ 1 / 0 }}", r"mine\.md\.j2:2: ZeroDivisionError"),
        (b"{{ say('{who} won') }}", r"mine\.md\.j2:1: KeyError: 'who'"),
        (b"{{ document.title | table }}", r"mine\.md\.j2:1: AttributeError: .*columns"),
        (b"\xff", r"mine\.md\.j2: UnicodeDecodeError"),
        (None, "no such"),
    ],
)
def test_a_template_that_does_not_work_is_named(tmp_path: Path, text: bytes | None, said: str) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    template = tmp_path / "mine.md.j2"
    if text is not None:
        template.write_bytes(text)
    with pytest.raises(UserError, match=said):
        report(tmp_path, template=template)


def test_frameworks_that_the_runs_do_not_tell_apart_have_no_winner(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [10.0, 11.0, 9.0, 10.2])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [9.1, 8.5, 9.9, 9.0])
    text = report(tmp_path)
    (said,) = re.findall(r"^\*\*(.* the fastest .*)\*\*$", text, re.MULTILINE)
    assert re.fullmatch(
        r"On 2 CPU cores, the fastest cannot be told \(MXNet 1\.9\.1 / OneFlow 0\.9\.0\); "
        r"about \d+ good runs of each would settle it\.",
        said,
    )
    assert "is the fastest" not in text


def test_equal_frameworks_have_no_winner_and_no_number_of_runs_that_would_settle_it(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [10.0, 10.1, 9.9, 10.0])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [10.0, 10.1, 9.9, 10.0])
    assert "; no affordable number of runs would settle it.**" in report(tmp_path)


def test_fewer_runs_than_a_verdict_takes_make_no_winner_however_far_they_lie_apart(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [10.0, 10.1, 9.9])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [5.0, 5.1, 4.9, 5.0, 5.0])
    text = report(tmp_path)
    needed = "no winner is named: each framework needs at least 4 good runs (MXNet 1.9.1 has 3)"
    assert f"**On 2 CPU cores, {needed}.**" in text
    assert "is the fastest" not in text


def test_a_framework_whose_runs_failed_keeps_the_winner_from_being_named(tmp_path: Path) -> None:
    sweep = sweep_of_two(tmp_path / "y1")
    store_run(write_run(sweep, make_case(framework="pytorch"), log="x\n", outcome=failed("rank_failed")))
    assert "(PyTorch 1.9.1 has 0).**" in report(sweep)


def test_frameworks_of_different_sweeps_have_no_winner(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "monday", make_case(**MXNET), [10.0, 10.1, 9.9, 10.0])
    store_good_runs(tmp_path / "friday", make_case(**ONEFLOW), [5.0, 5.1, 4.9, 5.0])
    text = report(tmp_path)
    assert "**On 2 CPU cores, the fastest cannot be told, where the frameworks were measured in diff" in text
    assert "is the fastest" not in text


def test_the_device_of_a_winner_is_named(tmp_path: Path) -> None:
    node = Node(host="a", cpu="Example CPU", cores=8, memory_bytes=2**34, accelerators=("NVIDIA H200",) * 2)
    for devices in (1, 2):
        topology = Topology(nodes=1, devices_per_node=devices)
        for factor, names in ((1.0, MXNET), (0.5, ONEFLOW)):
            case = make_case(**names, device="cuda", topology=topology)
            rates = [factor * rate for rate in (100.0, 101.0, 99.0, 100.0)]
            store_good_runs(tmp_path / "y1", case, rates, nodes=(node,))
    devices = "one NVIDIA H200, 2 x NVIDIA H200"
    assert f"**On {devices}, MXNet 1.9.1 is the fastest in 2 of 2 rows, 2.00 times the next.**" in report(
        tmp_path
    )


def test_devices_that_share_cores_are_no_cores(tmp_path: Path) -> None:
    topology = Topology(nodes=1, devices_per_node=8)
    for factor, names in ((1.0, MXNET), (0.5, ONEFLOW)):
        case = make_case(**names, topology=topology)
        store_good_runs(tmp_path / "y1", case, [factor * rate for rate in (100.0, 101.0, 99.0, 100.0)])
    assert "**On 8 CPU devices, MXNet 1.9.1 is the fastest" in report(tmp_path)


def test_disturbed_runs_are_named_with_what_other_work_took_and_have_no_figure(tmp_path: Path) -> None:
    sweep = sweep_of_two(tmp_path / "y1")
    for run in read_results(sweep).runs:
        case, repeat = run.result.case, run.result.repeat
        share = 0.64 if case.framework == "mxnet" and repeat == 1 else 0.012
        changes: dict[str, Any] = {
            "interference": Interference(share=share, waited=share, others=share, stolen=0.0)
        }
        if share > 0.05:
            changes |= {"status": Status.DISTURBED, "figures": None, "reason": "other work took 64.0%"}
        write_result(run.folder, run.result.model_copy(update=changes))
    text = report(sweep)
    said = "Other work took CPU time from the ranks of these runs, which have no figure: "
    assert f"{said}MXNet 1.9.1: 1 run (up to 64 %)." in text
    assert "disturbed (run 1 of " in text
    rows = next(table for table in tables(text) if "CPU time lost to other work, at most" in table[0])
    assert {"1.20 %"} == {row[rows[0].index("CPU time lost to other work, at most")] for row in rows[1:]}


def rank_times(*, rank: int, host: str, excess: float) -> RankTimes:
    return RankTimes(
        slowest_rank=rank,
        host=host,
        excess=excess,
        slowest_in=96,
        steps=100,
        is_straggler=excess > 0.05,
        compute_seconds=(0.1, 0.1),
        exchange_shares=(0.2, 0.1),
    )


def test_a_rank_that_the_others_waited_for_is_named_and_so_is_a_node_that_held_several(
    tmp_path: Path,
) -> None:
    for batch, excesses in ((8, (0.11, 0.09)), (16, (0.07, 0.07)), (32, (0.01, 0.2))):
        case = make_case(topology=Topology(nodes=2, devices_per_node=1), batch_size_per_device=batch)
        store_good_runs(tmp_path / "y1", case, [10.0, 10.1])
        for run, excess in zip(
            [run for run in read_results(tmp_path / "y1").runs if run.result.case == case],
            excesses,
            strict=True,
        ):
            times = rank_times(rank=1, host="gpu3", excess=excess)
            write_result(run.folder, run.result.model_copy(update={"rank_times": times}))

    text = report(tmp_path / "y1")

    said = "Ranks waited for one that was slower than the median of the others: "
    rank = "MXNet 1.9.1 on 2n1g, batch {}: rank 1 on gpu3, {} slower in 2 of 2 runs"
    assert said + f"{rank.format(8, '10 %')}; {rank.format(16, '7 %')}." in text
    node = "Node gpu3 held the slowest rank in 2 of 3 cases on several nodes: 8 % slower than the median"
    assert node in text


def test_why_oneflow_is_slow_on_cpu_is_said_where_it_is(tmp_path: Path) -> None:
    said = "OneFlow's kernels for CPU are slow, most of all that of depthwise convolutions"
    resnet = Y1.model_copy(update={"network": "iresnet18", "head": "E"})
    for name, changes in (
        ("slow", ONEFLOW),
        ("other", MXNET),
        ("gpu", {**ONEFLOW, "device": "cuda"}),
        ("resnet", {**ONEFLOW, "workload": resnet}),
    ):
        store_good_runs(tmp_path / name, make_case(**changes), [5.0])
        assert (name == "slow") == (said in report(tmp_path / name))
    store_run(write_run(tmp_path / "failed", make_case(**ONEFLOW), log="x\n", outcome=failed("rank_failed")))
    assert said not in report(tmp_path / "failed")


def test_the_method_says_what_a_device_is(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    store_good_runs(tmp_path / "gpu", make_case(device="cuda"), [10.0])
    cpu, gpu = "A device of cpu is as many CPU cores as it has threads", "A device of cuda is one GPU."
    for name, expected in (("y1", (True, False)), ("gpu", (False, True))):
        text = report(tmp_path / name)
        assert expected == (cpu in text, gpu in text)


def test_rows_are_counted_where_there_are_several(tmp_path: Path) -> None:
    for batch, runs in ((8, 4), (16, 2)):
        for factor, names in ((1.0, MXNET), (0.5, ONEFLOW)):
            rates = [factor * rate for rate in (10.0, 10.1, 9.9, 10.0)[:runs]]
            store_good_runs(tmp_path / "y1", make_case(**names, batch_size_per_device=batch), rates)
    text = report(tmp_path)
    assert "**On 2 CPU cores, MXNet 1.9.1 is the fastest in 1 of 2 rows, 2.00 times the next.**" in text
    assert (
        "**On 2 CPU cores, no winner is named in 1 of 2 rows: each framework needs at least 4 good runs "
        "(MXNet 1.9.1 has 2, OneFlow 0.9.0 has 2).**" in text
    )


def test_nothing_says_that_an_interval_is_too_wide_beside_a_verdict(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [900.0, 1600.0, 350.0, 1000.0])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [1.0, 6.0, 0.5, 2.5])
    text = report(tmp_path)
    assert "is the fastest" in text
    assert "too wide" not in text


def test_a_ratio_that_is_not_known_at_all_is_not_dressed_up(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(**MXNET), [1.0, 2.5, 4.0])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [2.5, 2.6, 2.55])
    text = report(tmp_path)
    assert tables(text)[0][1][-1] == "1.02 (interval too wide)"
    assert "Runs of one case lie far apart: CV up to 60 %" in text


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0], nodes=[MACHINE.model_copy(update={"load": 16.7})])
    store_good_runs(
        tmp_path / "y1", make_case(seed=1), [10.0], nodes=[MACHINE.model_copy(update={"load": 0.2})]
    )
    text = report(tmp_path)
    assert "its load was up to 16.7 on 8 cores" in text
    assert dict(row for row in tables(text)[6][1:])["load before a run"] == "0.2 to 16.7"


def test_a_figure_without_its_runs_is_shown_and_the_rest_is_not_known(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0, 10.2])
    loaded, request = load([tmp_path], strict=False), Request(paths=())
    published = replace(loaded.figures[0], runs=())
    made = tables(render(document(replace(loaded, figures=(published,)), request), request))
    assert made[0][1][3] == "10.10"
    assert made[1][1][-2:] == ["2", "0"]
    assert made[2][1][3:] == ["not known"] * 6


def test_where_the_time_goes_is_a_table_and_what_is_not_told_says_so(tmp_path: Path) -> None:
    told = {"forward_backward": 0.5, "communication": 0.25}
    store_good_runs(tmp_path / "y1", make_case(), [10.0], phases=told)
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [10.0], phases={"graph": 0.8})
    text = report(tmp_path)
    rows = [line for line in text.splitlines() if "not told" in line]
    assert 1 == len(rows)
    assert ["not told", "not told", "0.8000", "0.8000"] == [cell.strip() for cell in rows[0].split("|")[4:8]]
    assert re.search(r"\| +0\.5000 \| +0\.2500 \| +none \| +0\.7500 \|", text)


def test_devices_that_share_cores_are_said_to_prove_nothing_about_speed(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=8))
    store_good_runs(tmp_path / "y1", case, [10.0])
    text = report(tmp_path)
    assert "Cores were shared: up to 8 devices with 2 threads each ran on 8 cores." in text


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_notes_of_a_sweep_stand_above_its_tables(tmp_path: Path, form: Literal["md", "html"]) -> None:
    store_good_runs(tmp_path / "gate" / "first", make_case(), [10.0])
    store_good_runs(tmp_path / "gate" / "again", make_case(), [10.1])
    for name in ("again", "first"):
        write_plan(tmp_path / "gate" / name, [make_case()], notes="Does <b>it</b>\n  get *slower*?\n")
    text = report(tmp_path / "gate", form=form)
    shown = plain(PARSER.render(text) if form == "md" else text)
    assert 1 == shown.count("Notes of the sweep again, first: Does <b>it</b> get *slower*?")
    assert shown.index("Does <b>it</b>") < shown.rindex("y1, data parallel")
    assert "Notes of" not in report(sweep_of_two(tmp_path / "other"))


def test_the_report_begins_with_what_was_measured(tmp_path: Path) -> None:
    unmeasured = Y1.model_copy(update={"experiment": "a_first_by_name"})
    store_run(write_run(tmp_path / "a", make_case(workload=unmeasured), outcome=failed("rank_failed")))
    store_good_runs(tmp_path / "b", make_case(), [10.0])
    headings = re.findall(r"^## (.*data parallel)$", report(tmp_path), re.MULTILINE)
    assert ["y1, data parallel", "a_first_by_name, data parallel"] == headings
