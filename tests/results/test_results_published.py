"""The published data set: it is whole, its schema fits, and its repeats give its medians and speedups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.importing.case import facts_of_settings
from dlperf.importing.run_folders import Done, Instructions, import_file
from dlperf.plan.case import Topology
from dlperf.results import published
from dlperf.results.cases import case_figures
from dlperf.results.extract import mean_2021, median_2021
from dlperf.results.published import (
    Published,
    PublishedData,
    PublishedRepeats,
    load_published,
    published_names,
)
from dlperf.results.schema import Status
from dlperf.results.store import read_results

if TYPE_CHECKING:
    from pathlib import Path

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
        assert repeats.median == median_2021(rates)
        assert repeats.mean == mean_2021(rates)


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
        assert repeats.printed_median == median_2021(rates)
        assert repeats.printed_average == mean_2021(rates)
        assert repeats.printed_speedup == round(median_2021(rates) / median_2021(single_rates), 2)
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
        if case.speedup != round(case.samples_per_sec / base, 2):
            cut[case.samples_per_sec, base] = case.speedup
    assert cut == CUT


def test_figures_are_the_tables_numbers(data_set: Published) -> None:
    numbers = sorted(
        case.samples_per_sec or 0.0 for case in data_set.data.cases if case.batch_size_per_device is not None
    )
    assert numbers == sorted(figure.summary.median if figure.summary else 0.0 for figure in data_set.figures)
    assert (104, 110) == (sum(number > 0 for number in numbers), len(data_set.figures))


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


def log_of(repeats: PublishedRepeats, figure: float) -> str:
    """A log of which the scripts of 2021 would have made this figure, with as many decimals as they kept."""
    if repeats.framework == "oneflow":
        return "".join(f"train: iter {step}, loss 40.0000, throughput: {figure:.3f}\n" for step in range(130))
    if repeats.parallelism == "model":
        return "".join(
            f"INFO:root:Epoch[0] Batch [{20 * step}]\tSpeed: {rate:.2f} samples/sec\tacc=0.000000\n"
            for step, rate in enumerate([1.0, *tenths(figure, 5)], 1)
        )
    return "".join(
        f"rank-id:0:2020-12-25 10:00:00,123-Iter:{20 * step} Rank:1.00 it/sec Total:{rate:.2f} it/sec "
        "[0][loss]:43.21\n"
        for step, rate in enumerate([1.0] * 19 + tenths(figure, 10), 1)
    )


def tenths(mean: float, count: int) -> list[float]:
    """Numbers of one decimal with this mean."""
    whole, rest = divmod(round(mean * 10 * count), count)
    return [(whole + (number < rest)) / 10 for number in range(count)]


@pytest.mark.slow
def test_the_published_repeats_come_out_of_logs_as_the_published_medians_and_speedups(
    data_set: Published, tmp_path: Path
) -> None:
    medians, singles, checked = {}, {}, 0
    for repeats in data_set.data.repeats:
        told = {
            "framework": repeats.framework,
            "version": "1",
            "experiment": f"{repeats.network}_{repeats.dataset}",
            "parallelism": repeats.parallelism,
        }
        if repeats.sample_ratio is not None:
            told["sample_ratio"] = str(repeats.sample_ratio)
        given = Instructions(
            sweep=tmp_path / f"results/{checked}", method="dlperf-2021", dialect="auto",
            settings=facts_of_settings(told, "--set"), rules=(), here=tmp_path,
        )  # fmt: skip
        folder = tmp_path / f"{repeats.nodes}n{repeats.gpus_per_node}g"
        folder.mkdir(exist_ok=True)
        for number, figure in repeats.repeats.items():
            name = f"{repeats.network}_b{repeats.batch_size_per_device}_{repeats.precision}_{number}.log"
            (folder / name).write_text(log_of(repeats, figure))
            (done,) = import_file(folder / name, given)
            assert isinstance(done, Done), done
            assert done.result.figures is not None
            assert figure == done.result.figures.samples_per_sec
        (case,) = case_figures(read_results(given.sweep))
        assert case.summary is not None
        medians[repeats.key] = case.summary.median
        assert repeats.median == medians[repeats.key]
        if (repeats.nodes, repeats.gpus_per_node) == (1, 1):
            singles[repeats.key[:-2]] = medians[repeats.key]
        checked += 1
    assert 12 == checked
    for repeats in data_set.data.repeats:
        if repeats.printed_speedup is not None and repeats.printed_median == repeats.median:
            assert repeats.printed_speedup == round(medians[repeats.key] / singles[repeats.key[:-2]], 2)
