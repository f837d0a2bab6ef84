"""Every sentence of the report has a translation with the same values, and no other has."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import pytest
from jinja2 import nodes
from report_pages import report
from run_folders import make_case, store_good_runs

import dlperf.report
from dlperf.files import shipped_folder
from dlperf.plan.case import Topology
from dlperf.report.render import ENGLISH, LANGUAGES, messages

if TYPE_CHECKING:
    from collections.abc import Iterator


TRANSLATED = sorted(set(LANGUAGES) - {ENGLISH})


def said() -> set[str]:
    """Every message in the code and the templates of the report."""
    return {*_in_code(), *_in_templates()}


def _in_code() -> Iterator[str]:
    for path in Path(dlperf.report.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
                yield from _of_call(call.func.id, texts)


def _in_templates() -> Iterator[str]:
    for path in shipped_folder("templates").glob("*.j2"):
        template = jinja2.Environment(autoescape=True).parse(path.read_text())
        for call in template.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name):
                yield from _of_call(call.node.name, _texts(call.args))
        for found in template.find_all(nodes.Filter):
            yield from _of_call(found.name, _texts(found.args))


def _texts(arguments: list[nodes.Expr]) -> list[str]:
    return [argument.value for argument in arguments if isinstance(argument, nodes.Const)]


def _of_call(name: str, texts: list[str]) -> Iterator[str]:
    if name == "say" and texts:
        yield texts[0]
    if name == "plural" and texts:
        yield from (f"{{count}} {texts[0]}", f"{{count}} {texts[0]}s")


def places(message: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", message))


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_message_is_translated_and_no_other(language: str) -> None:
    found = messages(language)
    assert len(found) > 200
    assert set(found) == said()


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_values_and_the_markup_of_its_message(language: str) -> None:
    for message, translation in messages(language).items():
        assert places(message) == places(translation), message
        for mark in ("**", "`"):
            assert message.count(mark) == translation.count(mark), message


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_report_in_chinese_says_the_same_numbers(tmp_path: Path, form: str) -> None:
    for devices in (1, 2):
        case = make_case(topology=Topology(nodes=1, devices_per_node=devices))
        store_good_runs(tmp_path / "y1", case, [10.0 * devices, 11.0 * devices])
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", version="0.9.0"), [5.0, 5.2])
    texts = {}
    for language in ("en", "zh"):
        texts[language] = report(tmp_path / "y1", language=language, form="md" if form == "md" else "html")
    chinese = texts["zh"]
    assert "训练吞吐率" in chinese
    assert "y1, 数据并行" in chinese
    for word in (
        "Training throughput",
        "no winner is named",
        "How it was measured",
        "Rate of a run",
        "not proven",
    ):
        assert word in texts["en"]
        assert word not in chinese
    numbers = [re.findall(r"\d+\.\d+", text) for text in texts.values()]
    assert sorted(numbers[0]) == sorted(numbers[1])


def test_a_page_names_its_language(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    for language, tag in LANGUAGES.items():
        assert f'<html lang="{tag}">' in report(tmp_path / "y1", language=language, form="html")
