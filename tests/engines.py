"""The frameworks as the tests of tests/frameworks start them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A framework; `environment` is what the adapter sets besides threads."""

    name: str
    version: str
    threads: int
    environment: dict[str, str] = field(default_factory=dict)


# One thread waits for no other: on a busy machine two take many times as long.
MXNET = Engine(name="mxnet", version="1.9.1", threads=1)
ONEFLOW = Engine(
    name="oneflow",
    version="0.9.0",
    threads=2,
    environment={"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"},
)
JAX = Engine(name="jax", version="0.10.2", threads=1)
PYTORCH = Engine(name="pytorch", version="2.13.0", threads=1)
