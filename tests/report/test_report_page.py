"""The HTML report in a real browser: it renders, sorts, filters, complains of nothing, asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Watched, chromium
from playwright.sync_api import Browser, Page
from run_folders import MACHINE, Y1, failed, make_case, store_good_runs, write_run

from dlperf.plan.case import Topology
from dlperf.report.document import Request, build_report
from dlperf.report.render import write_report
from dlperf.results.store import store_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (tools/packages.txt)"),
]

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def report_page(folder: Path) -> Path:
    """Two frameworks, many rows, a failure, and a name that would like to be a program."""
    workload = Y1.model_copy(update={"experiment": HOSTILE, "dataset": HOSTILE})
    node = MACHINE.model_copy(update={"host": HOSTILE, "system": HOSTILE})
    for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        case = make_case(workload=workload, batch_size_per_device=batch)
        store_good_runs(folder / "y1", case, [30.0 - batch / 20] * 3, nodes=[node])
    for devices in (1, 2):
        topology = Topology(nodes=1, devices_per_node=devices)
        case = make_case(framework="oneflow", version="0.9.0", workload=workload, topology=topology)
        store_good_runs(folder / "y1", case, [5.0 * devices, 5.5 * devices], phases={"graph": 1.0})
    log = f"RuntimeError: out of memory {HOSTILE}\n"
    broken = make_case(framework="pytorch", version="2.13.0", workload=workload)
    store_run(write_run(folder / "y1", broken, log=log, outcome=failed("rank_failed"), nodes=[node]))
    request = Request(paths=(folder / "y1",), form="html")
    write_report(build_report(request, report_folder=folder), request, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def seen(browser: Browser, file: Path) -> Iterator[Watched]:
    """For tests that only look: opening the page takes longer than they do."""
    found = Watched(browser, file)
    yield found
    found.page.close()


@pytest.fixture
def watched(browser: Browser, file: Path) -> Iterator[Watched]:
    found = Watched(browser, file)
    yield found
    found.page.close()


def column(page: Page, table: int, place: int) -> list[str]:
    cells = page.locator("main table").nth(table).locator(f"tbody tr:not([hidden]) td:nth-child({place})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_it_renders_without_a_complaint_and_asks_for_nothing_but_itself(seen: Watched, file: Path) -> None:
    assert seen.page.locator("h1").inner_text().startswith("Training throughput: y1")
    assert seen.page.locator("main table").count() > 5
    assert [] == seen.complaints
    assert [file.as_uri()] == seen.requests


def test_a_heading_sorts_its_table_by_number_and_back(watched: Watched) -> None:
    page = watched.page
    heading = page.locator("main table").first.get_by_role("columnheader", name="batch_size_per_device")
    before = column(page, 0, 3)
    assert heading.get_attribute("aria-sort") is None
    heading.get_by_role("button").click()
    rising = [int(text) for text in column(page, 0, 3)]
    assert (sorted(map(int, before)), "ascending") == (rising, heading.get_attribute("aria-sort"))
    heading.get_by_role("button").click()
    assert (rising[::-1], "descending") == (
        [int(text) for text in column(page, 0, 3)],
        heading.get_attribute("aria-sort"),
    )


def test_cells_without_a_number_come_last_in_both_directions(watched: Watched) -> None:
    page = watched.page
    button = page.locator("main table").first.get_by_role("button", name="OneFlow 0.9.0 samples/s")
    for _ in range(2):
        button.click()
        words = [text[:1].isdigit() for text in column(page, 0, 6)]
        assert words == sorted(words, reverse=True)
        assert {True, False} == set(words)


def test_the_keyboard_sorts_too(watched: Watched) -> None:
    page = watched.page
    button = page.locator("main table").first.get_by_role("button", name="batch_size_per_device")
    button.focus()
    assert "3px" == button.evaluate("node => getComputedStyle(node).outlineWidth")
    page.keyboard.press("Enter")
    assert "ascending" == button.locator("..").get_attribute("aria-sort")


def test_a_filter_leaves_the_rows_with_all_of_its_words(watched: Watched) -> None:
    page = watched.page
    table = page.get_by_role("table", name="Spread of the repeats, samples/s")
    field = table.locator("xpath=preceding::input[1]")
    field.fill("oneflow 1n2g")
    shown = table.locator("tbody tr:visible").all_inner_texts()
    assert shown
    assert all("OneFlow" in row and "1n2g" in row for row in shown)
    said = table.locator("xpath=preceding::output[1]").inner_text()
    assert f"{len(shown)} / {table.locator('tbody tr').count()} rows shown" == said
    field.fill("")
    assert table.locator("tbody tr").count() == table.locator("tbody tr:visible").count()


def test_charts_say_what_they_show_and_tell_their_figures_under_the_pointer(seen: Watched) -> None:
    charts = seen.page.locator("figure.chart svg")
    assert charts.count() >= 3
    for chart in charts.all():
        assert ("img", True) == (chart.get_attribute("role"), bool(chart.get_attribute("aria-label")))
        assert chart.locator("g > title").count()
    ids = seen.page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(set(ids)) == len(ids)
    bar = seen.page.locator("figure.chart g:has(> title) > path").first
    bar.scroll_into_view_if_needed()
    under = """path => { const { x, y, width, height } = path.getBoundingClientRect();
        return document.elementFromPoint(x + width / 2, y + height / 2).parentNode.textContent; }"""
    assert "samples/s; 95 % interval of the mean" in bar.evaluate(under)


def test_on_a_narrow_screen_the_page_does_not_move_sideways_but_a_chart_does(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": 400, "height": 900})
    assert 400 == page.evaluate("document.documentElement.scrollWidth")
    chart = page.locator("figure.chart").first
    assert chart.evaluate("figure => figure.scrollWidth > figure.clientWidth")
    assert "0" == chart.get_attribute("tabindex")  # the keyboard can move it too


def test_every_table_has_a_caption_and_headings_with_a_scope(seen: Watched) -> None:
    page = seen.page
    tables = page.locator("table").count()
    assert tables == page.locator("table > caption").count()
    assert page.locator("thead th").count() == page.locator("thead th[scope=col]").count()
    assert 0 == page.locator("table caption:empty").count()


def test_markup_in_logs_and_files_stays_text(seen: Watched) -> None:
    page = seen.page
    assert "owned" not in page.title().replace(HOSTILE, "")
    assert 0 == page.locator("img").count()
    assert HOSTILE in page.locator("#gaps").inner_text()
    assert 1 == page.locator("script").count()


def test_a_script_that_is_not_ours_would_not_run(watched: Watched) -> None:
    page = watched.page
    page.evaluate(
        """() => { const own = document.createElement('script');
        own.textContent = "document.title = 'owned'"; document.body.append(own); }"""
    )
    assert "owned" != page.title()
    assert any("Content Security Policy" in text for text in watched.complaints)


def test_every_link_within_the_page_leads_somewhere(seen: Watched) -> None:
    targets = seen.page.locator("a[href^='#']").evaluate_all("links => links.map(link => link.hash)")
    missing = [target for target in targets if seen.page.locator(target).count() != 1]
    assert targets
    assert [] == missing


def test_links_to_runs_lead_to_the_folders(seen: Watched, file: Path) -> None:
    links = seen.page.locator("#evidence td a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert 35 == len(links)
    assert all((file.parent / link).is_dir() for link in links)


def test_dark_follows_the_system_in_charts_too(watched: Watched) -> None:
    page = watched.page
    background = "getComputedStyle(document.body).backgroundColor"
    card = "getComputedStyle(document.querySelector('figure.chart svg path')).fill"
    ink = "getComputedStyle(document.querySelector('figure.chart svg text')).fill"
    page.emulate_media(color_scheme="light")
    assert ["rgb(255, 255, 255)"] * 2 == [page.evaluate(background), page.evaluate(card)]
    assert "rgb(31, 35, 40)" == page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    assert ["rgb(13, 17, 23)"] * 2 == [page.evaluate(background), page.evaluate(card)]
    assert "rgb(230, 237, 243)" == page.evaluate(ink)
    assert [] == watched.complaints


def test_on_paper_the_charts_are_white_and_the_controls_are_gone(watched: Watched) -> None:
    page = watched.page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("figure.chart svg").first.is_visible()
    assert page.locator(".filter").first.is_hidden()
    assert "rgb(255, 255, 255)" == page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_without_a_program_the_page_is_whole(browser: Browser, file: Path) -> None:
    page = Watched(browser, file, java_script_enabled=False).page
    assert page.locator("main table").count() > 5
    assert page.locator("figure.chart svg").first.is_visible()
    assert 0 == page.locator("th button").count()
