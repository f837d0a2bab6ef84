"""Which modes can be compared, what their certificate is called, and what each participant trains."""

import pytest

from dlperf.align.participants import Mode, Settings, certificate_name, comparable_modes, probe_case
from dlperf.errors import UserError
from dlperf.plan.case import Loss, Topology, Workload

ONE, TWO, THREE, FOUR = (Topology.from_text(f"1n{count}g") for count in (1, 2, 3, 4))


def test_every_parallelism_meets_every_topology() -> None:
    chosen = comparable_modes(["data", "partial_fc"], [ONE, TWO], sample_ratio=1.0, frozen_batch_norm=True)

    assert ["data 1n1g", "data 1n2g", "partial_fc-1 1n1g", "partial_fc-1 1n2g"] == [str(m) for m in chosen]


@pytest.mark.parametrize(
    ("parallelisms", "topologies", "ratio", "frozen", "why"),
    [
        (["data"], [ONE, TWO], 1.0, False, "give one topology, or --frozen-batch-norm"),
        (["data"], [TWO, THREE], 1.0, True, "2 devices cannot share the global batch of 3 evenly"),
        (["data"], [Topology.from_text("2n1g")], 1.0, False, "2n1g has several nodes"),
        (["model", "partial_fc"], [TWO], 0.1, False, "align it alone on one topology"),
        (["partial_fc"], [TWO, FOUR], 0.1, True, "align it alone on one topology"),
    ],
)
def test_what_computes_another_function_is_refused(
    parallelisms: list, topologies: list, ratio: float, why: str, *, frozen: bool
) -> None:
    with pytest.raises(UserError, match=why):
        comparable_modes(parallelisms, topologies, sample_ratio=ratio, frozen_batch_norm=frozen)


def test_certificates_of_other_modes_do_not_replace_each_other() -> None:
    names = [
        certificate_name([Mode()], frozen_batch_norm=False),
        certificate_name([Mode()], frozen_batch_norm=True),
        certificate_name(
            comparable_modes(["data", "model"], [TWO], sample_ratio=1.0, frozen_batch_norm=False),
            frozen_batch_norm=False,
        ),
        certificate_name(
            comparable_modes(["partial_fc"], [TWO], sample_ratio=0.1, frozen_batch_norm=False),
            frozen_batch_norm=False,
        ),
        certificate_name([Mode()], frozen_batch_norm=False, precision="bf16"),
    ]

    assert [
        "align.json",
        "align-data-1n1g-frozen.json",
        "align-data-model-1n2g.json",
        "align-partial_fc-0.1-1n2g.json",
        "align-data-1n1g-bf16.json",
    ] == names


def test_all_participants_share_one_global_batch_and_the_cores() -> None:
    workload = Workload(
        experiment="y1",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset="emore",
        loss=Loss(kind="softmax"),
    )
    settings = Settings(batch_size=3, global_devices=4, cores=2, frozen_batch_norm=True)

    cases = [
        probe_case(workload, framework="x", version="1", settings=settings, mode=Mode(topology=topology))
        for topology in (ONE, TWO, FOUR)
    ]

    assert [12, 12, 12] == [case.global_batch_size for case in cases]
    assert [2, 1, 1] == [case.threads_per_device for case in cases]
    assert {"frozen"} == {case.workload.batch_norm for case in cases}
