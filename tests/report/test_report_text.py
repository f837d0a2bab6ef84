"""Content in HTML: what comes from outside is read as itself; what is ours has its markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import example, given
from hypothesis import strategies as st

from dlperf.report.html import html_writer, table
from dlperf.report.text import Anchor, Code, Column, Joined, Link, Table, plain_text, say
from dlperf.results.logfiles import plain

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
