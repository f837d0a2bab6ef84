"""Every form of every program's line that is known, one by one."""

# ruff: noqa: E501  log lines are as long as they are

from __future__ import annotations

import math
import random

import pytest
from log_makers import DIALECTS, parse

from dlperf.errors import UserError
from dlperf.importing.dialects import choose_dialects

TAIL = "Epoch: 0   Global Step: 100   Required: 10 hours"


def only(text: str) -> dict[str, object]:
    """The one record of a line, without what it does not say."""
    _reader, records = parse(text.encode() + b"\n")
    (record,) = records
    named = {name: getattr(record, name) for name in record._fields if name not in {"run", "line"}}
    return {name: value for name, value in named.items() if value is not None}


def iterations(text: str) -> list[int | None]:
    return [record.iteration for record in parse(text.encode())[1]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train: iter 0, loss 44.1, throughput: 12.500", {"iteration": 0, "loss": 44.1, "samples_per_sec": 12.5}),
        (
            "Validation [lftrain: iter 7, loss 4e-05, throughput: 245.123w] 12",
            {"iteration": 7, "loss": 4e-05, "samples_per_sec": 245.123},
        ),
        (
            f"Training: 2021-07-06 11:26:28,123-Speed 1234.56 samples/sec   Loss 12.3456   LearningRate 0.1000   {TAIL}",
            {
                "iteration": 100, "epoch": 0, "samples_per_sec": 1234.56, "loss": 12.3456, "lr": 0.1,
                "time": 1625570788123,
            },
        ),
        (
            ("Training: 2021-07-06 11:26:28,123-Speed 1234.56 samples/sec   Loss 12.3456   LearningRate 0.000001   "
            "Epoch: 3   Global Step: 12300   Fp16 Grad Scale:  1   Required: -0 hours"),
            {
                "iteration": 12300, "epoch": 3, "samples_per_sec": 1234.56, "loss": 12.3456, "lr": 1e-06,
                "time": 1625570788123,
            },
        ),
        (f"Training: Speed 12.00 samples/sec   Loss 1.5000   {TAIL}",
         {"iteration": 100, "epoch": 0, "samples_per_sec": 12.0, "loss": 1.5}),
        (f"Speed 12.00 samples/sec   {TAIL}", {"iteration": 100, "epoch": 0, "samples_per_sec": 12.0}),
        (
            "INFO:root:Epoch[0] Batch [20]\tSpeed: 239.28 samples/sec\tacc=0.000000\tlossvalue=9.800000",
            {"iteration": 20, "epoch": 0, "samples_per_sec": 239.28, "loss": 9.8},
        ),
        (
            "[2020-12-07 11:23:58]  INFO:root:Epoch[1] Batch [20-40]  Speed: 239.28 samples/sec  acc=0.1  lossvalue=9.8",
            {"iteration": 40, "epoch": 1, "samples_per_sec": 239.28, "loss": 9.8, "time": 1607340238000},
        ),
        (
            "2020-12-07 11:23:58,123 Node[3] Epoch[0] Batch [20]\tSpeed: 239.28 samples/sec\tacc=0.1",
            {"iteration": 20, "epoch": 0, "rank": 3, "samples_per_sec": 239.28, "time": 1607340238123},
        ),
        ("INFO:root:Iter[2] Batch [60]\tSpeed: inf samples/sec",
         {"iteration": 60, "epoch": 2, "samples_per_sec": math.inf}),
        (
            "rank-id:5:2020-12-25 10:00:00,123-Iter:20 Rank:100.50 it/sec Total:804.25 it/sec [0][loss]:43.21 ",
            {
                "iteration": 20, "epoch": 0, "rank": 5, "samples_per_sec": 804.25, "loss": 43.21,
                "time": 1608890400123,
            },
        ),
        (
            "Iter:20 Rank:100.50 it/sec Total:804.25 it/sec [0][glint]:43.21 [0][emore]:1.00 ",
            {"iteration": 20, "epoch": 0, "samples_per_sec": 804.25, "loss": 43.21},
        ),
        (
            "loss 12.3, lr 0.1, epoch 0, step 100, eta 1:02:03, throughput: 1234.56 imgs/sec",
            {"iteration": 100, "epoch": 0, "samples_per_sec": 1234.56, "loss": 12.3, "lr": 0.1},
        ),
        (
            ("Training: 2021-06-20 12:00:00,123 - loss 12.3, lr: 0.1, epoch: 0, step: 100, eta: 1.00 hours, "
            "avg_reader_cost: 0.1 sec, avg_batch_cost: 0.2 sec, avg_samples: 64.0, ips: 1234.5 images/sec"),
            {
                "iteration": 100, "epoch": 0, "samples_per_sec": 1234.5, "loss": 12.3, "lr": 0.1,
                "time": 1624190400123,
            },
        ),
        (
            "DLL 2020-02-24 22:05:26.131000 - Epoch: 0 Iteration: 20  train.loss : 6.9 train.ips : 2700.5 images/s ",
            {"iteration": 20, "epoch": 0, "samples_per_sec": 2700.5, "loss": 6.9, "time": 1582581926131},
        ),
        (
            "DLL 2020-02-24 22:05:26.131000 - 20 throughput : 2700.5 loss : nan ",
            {"iteration": 20, "samples_per_sec": 2700.5, "loss": math.nan, "time": 1582581926131},
        ),
        (
            "DLL 2020-02-24 22:05:26.131000 - Iteration: 20  throughput_train : 2700.5 images/s ",
            {"iteration": 20, "samples_per_sec": 2700.5, "time": 1582581926131},
        ),
        (
            ('DLLL {"timestamp": "1.5", "datetime": "2020-02-24 22:05:26.131000", "elapsedtime": "1", "type": "LOG", '
            '"step": [1, 40], "data": {"train.lr": 0.5, "train.ips": 2600, "train.loss": 6.5}}'),
            {
                "iteration": 40, "epoch": 1, "samples_per_sec": 2600.0, "loss": 6.5, "lr": 0.5,
                "time": 1582581926131,
            },
        ),
        (
            (':::MLLOG {"namespace": "worker1", "time_ms": 1600000000000, "event_type": "POINT_IN_TIME", '
            '"key": "tracked_stats", "value": {"throughput": 99.5}, "metadata": {"file": "x.py", "step": 12}}'),
            {"iteration": 12, "samples_per_sec": 99.5, "time": 1600000000000},
        ),
        (
            (':::MLLOG {"namespace": "", "time_ms": 1600000000000, "event_type": "POINT_IN_TIME", '
            '"key": "throughput", "value": 99.5, "metadata": {"lineno": 7, "epoch_num": 2}}'),
            {"epoch": 2, "samples_per_sec": 99.5, "time": 1600000000000},
        ),
    ],
)  # fmt: skip
def test_line_says(line: str, expected: dict[str, object]) -> None:
    assert repr(sorted(expected.items())) == repr(sorted(only(line).items()))  # a nan is not equal to itself


def test_a_loss_that_is_nan_is_a_loss() -> None:
    loss = only(f"Training: Speed 12.00 samples/sec   Loss nan   {TAIL}")["loss"]
    assert isinstance(loss, float)
    assert math.isnan(loss)


def test_our_own_events_with_a_loss_that_json_cannot_hold() -> None:
    line = (
        ':::MLLOG {"namespace": "dlperf", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": "tracked_stats", '
        '"value": {"throughput": 8.0, "seconds": 1.0, "loss": null, "loss_text": "nan"}, '
        '"metadata": {"rank": 0, "step": 3, "samples": 8, "kind": "train"}}'
    )
    record = only(line)
    assert (3, 0, "nan") == (record["iteration"], record["rank"], repr(record["loss"]))


@pytest.mark.parametrize(
    "line",
    [
        "train: iter 5, loss 44.1, throughput: 12.5",  # cut: the program prints three decimals
        "train: iter 5, loss 44.1, through",
        "Training: 2021-07-06 11:26:28,123-Speed 1234.56 samples/sec   Loss 1.2",
        "Speed: 239.28 samples/sec",
        "DLL 2020-02-24 22:05:26.131000 - Epoch: 0 Iteration: 20 Validation Iteration: 3  train.ips : 9.5 ",
        "DLL 2020-02-24 22:05:26.131000 - Epoch: 0  train.ips : 9.5 ",
        "DLL 2020-02-24 22:05:26.131000 - Epoch: 0 Iteration: 20  train.compute_ips : 9.5 ",
        'DLLL {"type": "LOG", "step": [0, 40], "data": {"train.ips": 2600.',
        'DLLL {"type": "LOG", "step": [0], "data": {"train.ips": 2600.0}}',
        'DLLL {"type": "METADATA", "metric": "train.ips", "metadata": {"unit": "images/s"}}',
        ':::MLLOG {"namespace": "", "time_ms": 1, "key": "tracked_stats", "value": {"throughput": 9',
        ':::MLLOG {"namespace": "", "time_ms": 1, "key": "run_start", "value": null, "metadata": {}}',
        "loss 12.3, lr 0.1, epoch 0, step 100, eta 1:02:03",
    ],
)
def test_line_is_no_record(line: str) -> None:
    assert [] == parse(line.encode() + b"\n")[1]


def test_very_old_mxnet_repeats_a_line_once_a_metric_and_it_counts_once() -> None:
    text = "".join(
        f"Epoch[0] Batch [{batch}]\tSpeed: 239.28 samples/sec\tTrain-{metric}\n"
        for batch in (20, 40)
        for metric in ("acc=0.1", "lossvalue=9.5")
    )
    _reader, records = parse(text.encode())
    assert [(20, 9.5), (40, 9.5)] == [(record.iteration, record.loss) for record in records]


@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_loss_on_a_line_of_its_own_goes_to_the_record_of_its_step(order: str) -> None:
    pairs = [(20, 12.5), (40, 11.5), (60, 10.5)]
    lines = []
    for step, loss in pairs:
        both = [f"CELOSS,{step},{loss:.6f}", f"INFO:root:Iter[0] Batch [{step}]\tSpeed: 239.28 samples/sec"]
        lines += both if order == "before" else both[::-1]
    _reader, records = parse("\n".join(lines).encode() + b"\n")
    assert pairs == [(record.iteration, record.loss) for record in records]


def test_a_loss_counted_by_another_step_goes_to_the_record_behind_it() -> None:
    text = "".join(
        f"CELOSS,{5000 + step + 1},{loss:.6f}\nIter[1] Batch [{step}]\tSpeed: 239.28 samples/sec\n"
        for step, loss in [(20, 12.5), (40, 11.5)]
    )
    _reader, records = parse(text.encode())
    assert [12.5, 11.5] == [record.loss for record in records]


def test_partial_fc_counts_an_iteration_once_and_rank_0_speaks() -> None:
    text = "".join(
        f"rank-id:{rank}:2020-12-25 10:00:00,123-Iter:{step} Rank:10.00 it/sec Total:{800 + rank}.00 it/sec "
        f"[0][loss]:4{rank}.00 \n"
        for step in (20, 40, 60)
        for rank in (2, 0, 1)
    )
    reader, records = parse(text.encode())
    assert [(20, 0, 800.0), (40, 0, 800.0), (60, 0, 800.0)] == [
        (record.iteration, record.rank, record.samples_per_sec) for record in records
    ]
    assert 1 == reader.runs


def test_every_process_of_mxnet_has_its_own_records() -> None:
    text = "".join(
        f"[1,{rank}]<stderr>:INFO:root:Epoch[0] Batch [{step}]\tSpeed: 2{rank}0.00 samples/sec\tacc=0.100000\n"
        for step in (20, 40)
        for rank in (1, 0)
    )
    reader, records = parse(text.encode())
    assert [(20, 1), (20, 0), (40, 1), (40, 0)] == [(record.iteration, record.rank) for record in records]
    assert 1 == reader.runs


@pytest.mark.parametrize(
    ("prefix", "rank"),
    [
        ("[1,3]<stdout>:", 3),
        ("[1,12]<stderr>:", 12),
        ("[7]<stdout>:", 7),
        ("[rank5]:", 5),
        ("[default2]:", 2),
        ("4: ", 4),
        (" 4: ", 4),
        ("2021-03-01T10:00:00.123456789Z [1,3]<stdout>:", 3),
        ("Sat Dec 12 10:00:00 2020[1,6]<stdout>:", 6),
        ("", None),
        ("[INFO] ", None),
    ],
)
def test_the_wrapper_names_the_rank(prefix: str, rank: int | None) -> None:
    assert rank == only(prefix + "train: iter 0, loss 44.1, throughput: 12.500").get("rank")


@pytest.mark.parametrize(
    ("prefix", "time"),
    [
        ("2021-07-06T11:26:28.123456789Z ", 1625570788123),
        ("2021-07-06T13:26:28.123456789+02:00 ", 1625570788123),
        ("2021-07-06T06:26:28.5-0500 ", 1625570788500),
        ("2021-07-06 11:26:28 ", 1625570788000),
        ("2021-13-45 11:26:28 ", None),
    ],
)
def test_a_time_in_front_of_the_line_is_the_records(prefix: str, time: int | None) -> None:
    assert time == only(prefix + "train: iter 0, loss 44.1, throughput: 12.500").get("time")


def test_mixed_dialects_are_named_with_their_lines() -> None:
    text = "train: iter 0, loss 44.1, throughput: 12.500\n\nEpoch[0] Batch [20]\tSpeed: 239.28 samples/sec\tacc=0.1\n"
    with pytest.raises(UserError) as caught:
        parse(text.encode())
    assert (
        "a.log: mixed dialects: oneflow_face in line 1, insightface_mxnet in line 3; split the file, or read one of "
        "them with --dialect oneflow_face" == str(caught.value)
    )
    assert [20] == [record.iteration for record in parse(text.encode(), dialect="insightface_mxnet")[1]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.log: empty"),
        (b"\n \n", "a.log: 2 lines, all of them blank"),
        (bytes(range(256)) * 4, "a.log: binary data, not a log"),
        (random.Random(1).randbytes(100_000), "a.log: binary data, not a log"),  # noqa: S311
        (
            b"\x07he\x9bllo\n" + b"world\n" * 20,
            "a.log: no throughput record of a known program in 21 lines; the first line is 'he�llo'",
        ),
        (
            b"hello\nworld\n",
            "a.log: no throughput record of a known program in 2 lines; the first line is 'hello'",
        ),
    ],
)
def test_what_is_no_log_is_described(data: bytes, message: str) -> None:
    reader, records = parse(data)
    assert [] == records
    with pytest.raises(UserError) as caught:
        reader.require_records()
    assert message == str(caught.value)


def test_an_unknown_dialect_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match="no dialect 'oneflow'; known: auto, arcface_paddle, arcface_torch, dllogger"
    ):
        choose_dialects("oneflow")


def test_every_dialect_of_the_facts_is_registered() -> None:
    assert {
        "arcface_paddle", "arcface_torch", "dllogger", "insightface_mxnet", "mllog", "oneflow_face",
        "partial_fc_mxnet", "plsc",
    } == set(DIALECTS)  # fmt: skip


def test_a_failure_of_each_run_is_kept_and_the_last_one_is_the_logs() -> None:
    text = (
        "train: iter 0, loss 44.1, throughput: 12.500\ntrain: iter 1, loss 44.1, throughput: 12.500\n"
        "RuntimeError: CUDA out of memory\n"
        "train: iter 0, loss 44.1, throughput: 12.500\ntrain: iter 1, loss 44.1, throughput: 12.500\n"
    )
    reader, records = parse(text.encode())
    assert [0, 0, 1, 1] == [record.run for record in records]
    assert {0: "oom"} == {run: str(failure.kind) for run, failure in reader.failures.items()}
    assert reader.failure is not None
    assert "a.log:3: RuntimeError: CUDA out of memory" == str(reader.failure.evidence)


def test_a_traceback_among_records_of_other_ranks_is_found_whole() -> None:
    text = (
        "[1,0]<stdout>:train: iter 0, loss 44.1, throughput: 12.500\n"
        "[1,1]<stderr>:Traceback (most recent call last):\n"
        "[1,0]<stdout>:train: iter 1, loss 44.1, throughput: 12.500\n"
        '[1,1]<stderr>:  File "train.py", line 1, in main\n'
        "[1,0]<stdout>:train: iter 2, loss 44.1, throughput: 12.500\n"
        "[1,1]<stderr>:ValueError: wrong\n"
    )
    reader, records = parse(text.encode())
    assert [0, 1, 2] == [record.iteration for record in records]
    assert reader.failure is not None
    assert ("crash", "[1,1]<stderr>:ValueError: wrong", 6) == (
        str(reader.failure.kind), reader.failure.evidence.text, reader.failure.evidence.line,
    )  # fmt: skip


def test_an_error_that_was_only_mentioned_and_survived_is_no_failure() -> None:
    record = "train: iter {}, loss 44.1, throughput: 12.500\n"
    mention = "ImportError: No module named mxboard, no charts\n"
    reader, _records = parse((record.format(0) + mention + record.format(1)).encode())
    assert reader.failure is None
    reader, _records = parse((record.format(0) + record.format(1) + mention).encode())
    assert reader.failure is not None
    assert "crash" == str(reader.failure.kind)


def test_fields_behind_the_speed_may_be_missing_but_not_all() -> None:
    assert {"samples_per_sec": 12.0, "loss": 1.5} == only(
        "Training: Speed 12.00 samples/sec   Loss 1.5   Required: 1 hours"
    )
    assert [] == parse(b"Training: Speed 12.00 samples/sec   Loss 1.5   Lea\n")[1]
