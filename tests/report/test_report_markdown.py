"""Nothing that comes from outside can mark up a report: what a Markdown parser sees is the text itself."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len

from dlperf.logs.text import plain
from dlperf.report.markdown import code, escape, markdown_writer, table
from dlperf.report.render import messages
from dlperf.report.text import Anchor, Code, Column, Joined, Link, Table, say

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
WRITE = markdown_writer()
SPECIAL = "|`*_~[]()<>!#$\\&;:-+=.\"'{}\n\r\t1"
texts = st.one_of(st.text(max_size=40), st.text(SPECIAL + "ab ", max_size=40))


def seen(markdown: str) -> str:
    """The text that a reader sees, tags and entities resolved."""
    return html.unescape(re.sub(r"</?(?:p|span|code|strong)>", "", PARSER.render(markdown))).strip()


def tags(markdown: str) -> set[str]:
    return set(re.findall(r"<(/?[a-z0-9]+)", PARSER.render(markdown)))


@given(texts)
@example("<script>alert(1)</script>")
@example("# heading")
@example("1. item")
@example("- item")
@example("=====")
@example("![pixel](http://example.com/x.png)")
@example("[link](javascript:alert(1))")
@example("<!-- comment -->")
@example("a\n\n    code")
@example("&lt;b&gt;")
@example("snake_case __init__ _x_")
@example("    indented")
@example("```")
@example("~~~")
@example("a ~~b~~ c")
@example("\\")
@example("<http://example.com>")
def test_escaped_text_is_read_as_itself(text: str) -> None:
    rendered = escape(text)
    assert tags(rendered) <= {"p", "/p", "span", "/span"}
    assert seen(rendered) == plain(text)


@given(texts)
def test_code_is_read_as_itself(text: str) -> None:
    rendered = code(text)
    assert tags(rendered) <= {"p", "/p", "code", "/code", "span", "/span"}
    assert seen(rendered) == plain(text)


@given(st.lists(st.lists(texts, min_size=3, max_size=3), max_size=4))
def test_a_table_has_the_cells_that_it_was_given(rows: list[list[str]]) -> None:
    columns = (Column(heading="a|b"), Column(heading="n", numbers=True), Column(heading="c"))
    text = table(Table(caption="", columns=columns, rows=tuple(tuple(row) for row in rows)), WRITE)
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", PARSER.render(text), flags=re.DOTALL)
    read = [html.unescape(re.sub(r"</?span>", "", cell)) for cell in cells]
    assert read == ["a|b", "n", "c", *(plain(cell) for row in rows for cell in row)]


def test_a_table_can_be_read_as_text() -> None:
    columns = (Column(heading="name"), Column(heading="rate", numbers=True))
    text = table(Table(caption="x", columns=columns, rows=(("mxnet", "9.30"), ("pytorch", "10.70"))), WRITE)
    assert text.splitlines() == [
        "| name    |  rate |",
        "|---------|------:|",
        "| mxnet   |  9.30 |",
        "| pytorch | 10.70 |",
    ]


def test_markup_of_our_own_stays_and_values_in_it_are_escaped() -> None:
    assert "`dlperf` says **\\*x\\***" == WRITE(say("`dlperf` says **{what}**", what="*x*"))
    assert "&gt;= 3 (\\*)" == WRITE(say(">= {limit} ({what})", limit=3, what="*"))


def test_content_of_every_kind_has_its_markup() -> None:
    parts = (Code("a_*"), Link(say("more"), "#e1"), Anchor("case", "e1"))
    assert '<code>a\\_\\*</code>, [more](#e1), <a id="e1"></a>case' == WRITE(Joined(parts, ", "))


def test_a_message_is_translated_and_the_data_in_it_are_not() -> None:
    write = markdown_writer({"{count} runs": "{count} 次运行", "more": "更多"})
    assert "3 次运行, more" == write(Joined((say("{count} runs", count=3), "more"), ", "))


@pytest.mark.parametrize(("text", "escaped"), [("node_num", "node_num"), ("0.1.0", "0.1.0"), ("_x", "\\_x")])
def test_names_and_numbers_stay_readable_in_the_source(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_a_dollar_starts_no_formula_and_a_line_number_is_no_emoji() -> None:
    assert escape("$x$") == "<span>$</span>x<span>$</span>"
    assert code("logs/rank0.log:100: x") == "<code>logs/rank0.log:100: x</code>"


@pytest.mark.parametrize("text", ["\u202etxt.exe", "\x1b[31mred\x1b[0m", "a\x00b\x07c", "a\u2028b"])
def test_control_and_direction_characters_do_not_get_through(text: str) -> None:
    assert str(escape(text)).isprintable()


def test_the_source_of_a_table_is_aligned_in_chinese_too() -> None:
    content = Table(
        caption="",
        columns=(Column(heading=say("framework")), Column(heading=say("speedup"), numbers=True)),
        rows=(("OneFlow 0.9.0", "1.00"), ("自定义框架", "12.00")),
    )
    lines = table(content, markdown_writer(messages("zh"))).splitlines()
    assert "框架" in lines[0]
    assert 1 == len({cell_len(line) for line in lines})
