"""Content in HTML: what comes from outside is read as itself; what is ours has its markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report_pages import report
from run_folders import Y1, make_case, store_good_runs

from dlperf.errors import UserError
from dlperf.logs.text import plain
from dlperf.report.render import html_table as table
from dlperf.report.render import html_writer
from dlperf.report.text import Anchor, Code, Column, Joined, Link, Table, plain_text, say

if TYPE_CHECKING:
    from pathlib import Path

WRITE = html_writer()
texts = st.one_of(st.text(max_size=40), st.text("<>&\"'/=!- \n\r\taimgscript`*{}", max_size=40))


class Reader(HTMLParser):
    """What a reader sees of some HTML, and which tags it has."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(texts)
@example("<script>alert(1)</script>")
@example("<img src=x onerror=alert(1)>")
@example("</td></table><!--")
@example("&lt;b&gt;")
@example("{what}")
@example("**not strong** `not code`")
def test_data_are_read_as_themselves(text: str) -> None:
    for content in (text, say("{what}", what=text), Joined((text, ""), ""), Code(text)):
        read = Reader(WRITE(content))
        assert plain(text) == read.text
        assert {tag for tag, _ in read.tags} <= {"code"}


@given(texts)
def test_nothing_leaves_an_attribute(text: str) -> None:
    ((tag, attributes),) = Reader(WRITE(Link("x", text))).tags
    assert ("a", {"href"}) == (tag, set(attributes))
    columns = (Column(heading="h"),)
    read = Reader(table(Table(caption=text, columns=columns, rows=((text,),)), WRITE))
    assert {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"} >= {tag for tag, _ in read.tags}
    assert {"class", "tabindex", "role", "aria-label"} == set(read.tags[0][1])


def test_a_message_of_ours_has_its_markup() -> None:
    assert "<strong>no</strong> &gt;= <code>x</code> *" == WRITE(say("**no** >= `x` {what}", what="*"))
    assert '<span id="e1">case</span>' == WRITE(Anchor("case", "e1"))


def test_a_table_has_its_caption_its_scopes_and_its_cells() -> None:
    columns = (Column(heading="name"), Column(heading="rate", numbers=True))
    markup = table(Table(caption="Rates", columns=columns, rows=(("a<b", "9.30"),)), WRITE)
    assert "<caption>Rates</caption>" in markup
    assert 2 == len(re.findall('<th scope="col"', markup))
    assert '<tr><td>a&lt;b</td><td class="number">9.30</td></tr>' in markup


def test_plain_text_is_the_english_without_markup() -> None:
    content = Joined((say("**{count}** runs", count=2), Link("here", "#x"), Code("log")), ", ")
    assert "2 runs, here, log" == plain_text(content)


def test_a_page_template_of_ones_own_escapes_all_the_same(tmp_path: Path) -> None:
    workload = Y1.model_copy(update={"experiment": "<b>e</b>"})
    store_good_runs(tmp_path / "y1", make_case(workload=workload), [10.0])
    template = tmp_path / "mine.html.j2"
    template.write_text(
        "{% for section in document.sections %}<h1>{{ section.title }}</h1>"
        "<p title=\"{{ section.title }}\">{{ say('{count} runs', count=3) }}</p>{% endfor %}"
    )
    title = "&lt;b&gt;e&lt;/b&gt;, 数据并行"
    assert f'<h1>{title}</h1><p title="{title}">3 次运行</p>\n' == report(
        tmp_path / "y1", form="html", template=template, language="zh"
    )


def test_a_template_that_is_not_there_is_named(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    with pytest.raises(UserError, match=r"none\.html\.j2: no such template"):
        report(tmp_path / "y1", form="html", template=tmp_path / "none.html.j2")
