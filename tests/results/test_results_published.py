"""The published data set: it is whole, its schema fits, and its repeats give its medians and speedups."""

from __future__ import annotations

import json

import pytest

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.results import published
from dlperf.results.method_2021 import case_figure, run_figure, speedup
from dlperf.results.published import Published, PublishedData, load_published, published_names
from dlperf.results.schema import Status
from dlperf.shipped import shipped_folder

NAME = "insightface_v100_2021"
FOLDER = shipped_folder("reports") / NAME
# Printed speedups that the source cut instead of rounding; its notes name them.
CUT = {(1854.15, 245.29): 7.55, (1933.88, 248.01): 7.79}


@pytest.fixture(scope="module")
def data_set() -> Published:
    return load_published(NAME)


def test_the_prefix_may_stand_in_front(data_set: Published) -> None:
    assert load_published(f"published:{NAME}").data == data_set.data
    assert NAME in published_names()


def test_nothing_is_lost_between_file_and_model(data_set: Published) -> None:
    content = json.loads((FOLDER / "data.json").read_bytes())
    assert content == data_set.data.model_dump(mode="json", exclude_unset=True)
    assert (116, 12, 4, 51) == tuple(
        len(content[key]) for key in ("cases", "repeats", "max_num_classes", "superseded")
    )


def test_the_schema_beside_the_data_is_the_models() -> None:
    assert PublishedData.model_json_schema() == json.loads((FOLDER / "schema.json").read_bytes())


def test_every_printed_median_and_mean_follows_from_its_repeats(data_set: Published) -> None:
    for repeats in data_set.data.repeats:
        rates = list(repeats.repeats.values())
        assert repeats.median == case_figure(rates)
        assert repeats.mean == run_figure(rates)


def test_the_repeats_of_a_table_give_its_printed_median_average_and_speedup(data_set: Published) -> None:
    """Of the two campaigns of 1n8g at sample ratio 1.0 the source prints the median of one."""
    checked = 0
    for repeats in data_set.data.repeats:
        if repeats.printed_median is None or repeats.printed_median != repeats.median:
            continue
        single = next(
            other
            for other in data_set.data.repeats
            if other.key[:-2] == repeats.key[:-2] and other.key[-2:] == (1, 1)
        )
        rates, single_rates = list(repeats.repeats.values()), list(single.repeats.values())
        assert repeats.printed_median == case_figure(rates)
        assert repeats.printed_average == run_figure(rates)
        assert repeats.printed_speedup == speedup(case_figure(rates), case_figure(single_rates))
        checked += 1
    assert checked == 10


def test_every_printed_speedup_follows_from_its_figures_but_for_two_that_were_cut(
    data_set: Published,
) -> None:
    single = {
        (case.series, case.batch_is_max): case.samples_per_sec
        for case in data_set.data.cases
        if (case.nodes, case.gpus_per_node) == (1, 1)
    }
    cut = {}
    for case in data_set.data.cases:
        base = single[case.series, case.batch_is_max]
        if case.samples_per_sec is None or base is None or case.speedup is None:
            continue
        if case.speedup != speedup(case.samples_per_sec, base):
            cut[case.samples_per_sec, base] = case.speedup
    assert cut == CUT


def test_figures_are_the_tables_numbers(data_set: Published) -> None:
    numbers = sorted(
        case.samples_per_sec or 0.0 for case in data_set.data.cases if case.batch_size_per_device is not None
    )
    assert numbers == sorted(figure.summary.median if figure.summary else 0.0 for figure in data_set.figures)
    assert len(data_set.data.cases) == len(data_set.figures) + len(data_set.without_batch_size)


def test_a_figure_with_printed_repeats_has_their_spread(data_set: Published) -> None:
    (figure,) = [
        figure
        for figure in data_set.figures
        if figure.case.framework == "mxnet"
        and figure.case.sample_ratio == 1.0
        and figure.case.topology == Topology(nodes=1, devices_per_node=8)
        and figure.case.batch_size_per_device == 64
        and figure.case.workload.dataset == "face_emore"
    ]
    assert figure.summary is not None
    assert (5, 1416.14, 1439.3) == (figure.summary.runs, figure.summary.minimum, figure.summary.maximum)


def test_what_was_not_measured_says_why_and_has_no_number(data_set: Published) -> None:
    missing = [figure for figure in data_set.figures if figure.summary is None]
    assert len(missing) == 6
    assert {Status.NOT_MEASURED} == {figure.status for figure in missing}
    assert all("could not read glint360k" in (figure.reason or "") for figure in missing)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=f"published:nothing: no such published data set; known: .*{NAME}"):
        load_published("published:nothing")


def test_damaged_data_is_named_with_its_place(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path  # noqa: PLC0415

    folder = Path(str(tmp_path)) / "reports" / NAME
    folder.mkdir(parents=True)
    (folder / "data.json").write_text('{"title": 1}')
    monkeypatch.setattr(published, "shipped_folder", lambda _name: folder.parent)
    with pytest.raises(UserError, match=r"data\.json: damaged: title: "):
        load_published(NAME)
