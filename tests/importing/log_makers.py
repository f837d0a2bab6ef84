"""Logs made from records: each program's lines as its source prints them, and what stands around them."""

# ruff: noqa: E501  log lines are as long as they are

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from dlperf.importing.archives import Log
from dlperf.importing.dialects import load_dialects
from dlperf.importing.reader import LogReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import SearchStrategy

    from dlperf.importing.records import Record

DIALECTS = load_dialects()


@dataclass(frozen=True)
class Made:
    """What a line says, as texts, so that nothing is lost on the way into it."""

    iteration: int
    epoch: int = 0
    rate: str = "100.000"
    loss: str = "1.000000"
    lr: str = "0.100000"
    clock: str = "2021-07-06 11:26:28,123"

    def expected(self, fields: Sequence[str]) -> dict[str, object]:
        """The fields that the program prints; repr, because nan is not equal to itself."""
        values = {
            "iteration": self.iteration,
            "epoch": self.epoch,
            "samples_per_sec": float(self.rate),
            "loss": float(self.loss),
            "lr": float(self.lr),
        }
        return {name: repr(values[name]) for name in fields}


@dataclass(frozen=True)
class Program:
    """How a program prints a record, and which fields it prints."""

    dialect: str
    line: Callable[[Made], str]
    fields: tuple[str, ...]
    rate_decimals: int = 2
    loss_decimals: int = 4
    lr_decimals: int = 4
    loss_may_be_nan: bool = True


def _arcface(made: Made) -> str:
    return (
        f"Training: {made.clock}-Speed {made.rate} samples/sec   Loss {made.loss}   LearningRate {made.lr}   "
        f"Epoch: {made.epoch}   Global Step: {made.iteration}   Fp16 Grad Scale: 65536   Required: 10 hours"
    )


def _arcface_old(made: Made) -> str:
    return (
        f"Training: Speed {made.rate} samples/sec   Loss {made.loss}   Epoch: {made.epoch}   "
        f"Global Step: {made.iteration}   Required: -0 hours"
    )


def _arcface_scale(made: Made) -> str:
    return (
        f"Training: {made.clock}-Speed {made.rate} samples/sec   Loss {made.loss}   LearningRate {made.lr}   "
        f"Epoch: {made.epoch}   Global Step: {made.iteration}   Fp16 Grad Scale:  2   Required: 3 hours"
    )


def _paddle(made: Made) -> str:
    return (
        f"Training: {made.clock} - loss {made.loss}, lr: {made.lr}, epoch: {made.epoch}, step: {made.iteration}, "
        f"eta: 12.34 hours, throughput: {made.rate} imgs/sec"
    )


def _paddle_ips(made: Made) -> str:
    return (
        f"Training: {made.clock} - loss {made.loss}, lr: {made.lr}, epoch: {made.epoch}, step: {made.iteration}, "
        f"eta: 12.34 hours, avg_reader_cost: 0.00123 sec, avg_batch_cost: 0.12345 sec, avg_samples: 64.00000, "
        f"ips: {made.rate} images/sec"
    )


def _plsc(made: Made) -> str:
    return (
        f"[2022/11/09 10:00:00] plsc INFO: [Train][Epoch {made.epoch}/25][Iter: {made.iteration}/5061]lr: {made.lr}, "
        f"loss: {made.loss}, batch_cost: 0.39000s, reader_cost: 0.00100, ips: {made.rate} images/sec, eta: 1:00:00"
    )


def _dllogger_json(made: Made) -> str:
    data = {"train.loss": float(made.loss), "train.ips": float(made.rate), "train.lr": float(made.lr)}
    content = {
        "timestamp": "1582581926.131",
        "datetime": "2020-02-24 22:05:26.131000",
        "elapsedtime": "12.5",
        "type": "LOG",
        "step": [made.epoch, made.iteration],
        "data": data,
    }
    return "DLLL " + json.dumps(content)


def _mllog(made: Made) -> str:
    content = {
        "namespace": "dlperf",
        "time_ms": 1600000000000 + made.iteration,
        "event_type": "POINT_IN_TIME",
        "key": "tracked_stats",
        "value": {"throughput": float(made.rate), "seconds": 0.123456789012345, "loss": float(made.loss)},
        "metadata": {"rank": 0, "step": made.iteration, "samples": 64, "kind": "train"},
    }
    return ":::MLLOG " + json.dumps(content)


def _dllogger(made: Made) -> str:
    return (
        f"DLL 2020-02-24 22:05:26.131000 - Epoch: {made.epoch} Iteration: {made.iteration}  "
        f"train.loss : {made.loss} train.ips : {made.rate} images/s train.lr : {made.lr} "
    )


def _mxnet(made: Made) -> str:
    return (
        f"INFO:root:Epoch[{made.epoch}] Batch [{made.iteration}]\tSpeed: {made.rate} samples/sec\t"
        f"acc=0.012345\tlossvalue={made.loss}"
    )


def _mxnet_range(made: Made) -> str:
    return (
        f"Epoch[{made.epoch}] Batch [{max(0, made.iteration - 20)}-{made.iteration}]  Speed: {made.rate} samples/sec"
        f"  acc=0.012345  lossvalue={made.loss}"
    )


def _partial_fc(made: Made) -> str:
    return (
        f"rank-id:0:{made.clock}-Iter:{made.iteration} Rank:12.34 it/sec Total:{made.rate} it/sec "
        f"[{made.epoch}][loss]:{made.loss} "
    )


_ALL = ("iteration", "epoch", "samples_per_sec", "loss", "lr")
_NO_LR = ("iteration", "epoch", "samples_per_sec", "loss")

PROGRAMS = {
    "oneflow": Program(
        "oneflow_face",
        lambda made: f"train: iter {made.iteration}, loss {made.loss}, throughput: {made.rate}",
        ("iteration", "samples_per_sec", "loss"),
        rate_decimals=3,
    ),
    "arcface": Program("arcface_torch", _arcface, _ALL, lr_decimals=6),
    "arcface old": Program("arcface_torch", _arcface_old, _NO_LR),
    "arcface scale": Program("arcface_torch", _arcface_scale, _ALL, lr_decimals=12),
    "mxnet": Program("insightface_mxnet", _mxnet, _NO_LR, loss_decimals=6),
    "mxnet range": Program("insightface_mxnet", _mxnet_range, _NO_LR, loss_decimals=6),
    "partial fc": Program("partial_fc_mxnet", _partial_fc, _NO_LR, loss_decimals=2),
    "paddle": Program("arcface_paddle", _paddle, _ALL, lr_decimals=6),
    "paddle ips": Program("arcface_paddle", _paddle_ips, _ALL, rate_decimals=5, lr_decimals=6),
    "plsc": Program("plsc", _plsc, _ALL, rate_decimals=5, loss_decimals=5, lr_decimals=6),
    "dllogger": Program("dllogger", _dllogger, _ALL),
    "dllogger json": Program("dllogger", _dllogger_json, _ALL, loss_decimals=12, loss_may_be_nan=False),
    "mllog": Program(
        "mllog",
        _mllog,
        ("iteration", "samples_per_sec", "loss"),
        rate_decimals=12,
        loss_decimals=14,
        loss_may_be_nan=False,
    ),
}


def _decimal(decimals: int, *, largest: float) -> SearchStrategy[str]:
    return st.floats(0.01, largest).map(lambda value: f"{value:.{decimals}f}")


@st.composite
def runs(draw: st.DrawFn, program: Program, *, largest: int = 12) -> list[Made]:
    """One run's records: steps rise, epochs never fall."""
    count = draw(st.integers(1, largest))
    steps = draw(st.lists(st.integers(1, 3000), min_size=count, max_size=count))
    first = draw(st.integers(0, 100))
    losses = _decimal(program.loss_decimals, largest=99)
    if program.loss_may_be_nan:
        losses = st.one_of(losses, losses, losses, st.sampled_from(["nan", "inf"]))
    made, iteration = [], first
    for step in steps:
        made.append(
            Made(
                iteration=iteration,
                epoch=iteration // 5000,
                rate=draw(_decimal(program.rate_decimals, largest=99999)),
                loss=draw(losses),
                lr=draw(_decimal(program.lr_decimals, largest=1)),
            )
        )
        iteration += step
    return made


# Lines that trainers, launchers and people print, and that are no records. None of them names a failure.
NOISE = st.one_of(
    st.sampled_from(
        [
            "",
            "   ",
            "Validation on [lfw]:",
            "[lfw][2000]XNorm: 22.123456",
            "INFO:root:[agedb_30][2000]Accuracy-Flip: 0.97000+-0.00500",
            "testing verification..",
            "Training: 2021-07-06 11:26:28,123-world_size: 8",
            "lr-batch-epoch: 0.1 19 0",
            "Namespace(batch_size=64, loss='arcface')",
            ':::MLLOG {"namespace": "", "key": "init_stop", "value": null, "metadata": {}}',
            "DLL 2020-02-24 22:05:26.131000 - PARAMETER batch_size : 64 ",
            "DLL 2020-02-24 22:05:26.131000 - Epoch: 0  train.ips : 99.5",
            "\x1b[32m  12%|##        | 120/1000 [00:12<01:22, 10.7it/s]\x1b[0m",
            "node1:12:34 [0] NCCL INFO Channel 00 : 0 1 2 3",
            "train: iter 12, loss",
            "Speed 12",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00"), max_size=40).filter(
        lambda text: not any(word in text for word in ("Speed", "train:", "/s", "DLL", "MLL", "CELOSS"))
    ),
)

WRAPPERS = st.sampled_from(
    [
        lambda line: line,
        lambda line: f"[1,0]<stdout>:{line}",
        lambda line: f"[1,3]<stderr>:{line}",
        lambda line: f"[2]<stdout>:{line}",
        lambda line: f"0: {line}",
        lambda line: f"13: {line}",
        lambda line: f"[rank1]:{line}",
        lambda line: f"[default7]:{line}",
        lambda line: f"2021-03-01T10:00:00.123456789Z {line}",
        lambda line: f"2021-03-01T10:00:00.123456789Z [1,0]<stdout>:{line}",
        lambda line: f"trainer-0    | {line}",
        lambda line: f"May  1 10:00:00 node7 python[42]: [1,mpirank:3,algo-1]<stdout>:{line}",
        lambda line: f"(RayTrainWorker pid=42) node7: {line}",
        lambda line: f"[3] {line}",
        lambda line: f"\x1b[32m{line}\x1b[0m",
        lambda line: f"  12%|##   | 1/8\r  25%|###  | 2/8\r{line}",
        lambda line: f"\x1b[1mEpoch\x1b[0m {line}",
    ]
)


def parse(data: bytes, *, dialect: str | None = None) -> tuple[LogReader, list[Record]]:
    """Everything in the bytes."""
    dialects = [DIALECTS[dialect]] if dialect else list(DIALECTS.values())
    reader = LogReader(Log(name="a.log", stream=io.BytesIO(data)), dialects=dialects)
    return reader, [record for batch in reader for record in batch.records()]


def seen(records: Sequence[Record], fields: Sequence[str]) -> list[dict[str, object]]:
    """As `Made.expected`."""
    return [{name: repr(getattr(record, name)) for name in fields} for record in records]
