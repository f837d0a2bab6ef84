"""`dlperf align --cluster`: a host whose engine computes something else is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_lab import ClusterLab
from netlab import Host

from dlperf.adapters.registry import load_adapters

pytestmark = [pytest.mark.slow, pytest.mark.engine]

# The lowest bit of one value of every convolution's output.
FAULT = """

_sound_forward = Conv2d._conv_forward


def _faulty_forward(self, *arguments):
    maps = _sound_forward(self, *arguments)
    maps.detach().view(torch.int32)[0, 0, 0, 0] ^= 1
    return maps


Conv2d._conv_forward = _faulty_forward
"""


@contextmanager
def faulty(host: Host, source: Path, folder: Path) -> Iterator[None]:
    """The host sees a file of the engine with the fault in it; the others see it as it is."""
    patched = folder / source.name
    patched.write_text(source.read_text() + FAULT)
    host.run("mount", "--bind", patched, source)
    try:
        yield
    finally:
        host.run("umount", source)


def test_a_host_whose_engine_flips_a_bit_is_named_and_equal_hosts_pass(
    lab: ClusterLab, engine_python: Callable[[str], Path]
) -> None:
    python = engine_python("pytorch")
    (source,) = python.parent.parent.glob("lib/python*/site-packages/torch/nn/modules/conv.py")
    lab.write_cluster(
        hosts=3, interface="eth0", devices=1, cores=1, environment={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    lab.write()
    words = (
        "align",
        "pixels",
        "--cluster",
        "lab",
        "--frameworks",
        "pytorch",
        "--python",
        f"pytorch={python}",
    )
    version = load_adapters()["pytorch"].versions[0]

    equal = lab.dlperf(*words, "--steps", "2", "--num-classes", "10")

    assert equal.returncode == 0, equal.stdout + equal.stderr
    assert f"pytorch=={version}: 3 nodes compute the same\n" in equal.stdout

    with faulty(lab.net.hosts[1], source, lab.net.folder):
        found = lab.dlperf(*words, "--steps", "2", "--num-classes", "10")

    assert found.returncode == 1, found.stdout + found.stderr
    assert f"pytorch=={version}: node1 computes something else than node0 and node2: " in found.stdout
    saved = json.loads((lab.folder / "results" / "pixels" / "equality.json").read_text())
    (framework,) = saved["frameworks"]
    (difference,) = framework["differ"]
    assert (["node1"], ["node0", "node2"]) == (difference["nodes"], framework["agree"])
    # Weights and batches are those of the others; what the engine makes of them is not.
    assert difference["first"] == "embeddings"
    assert 0 < difference["difference"] < 1e-3
