"""Every relative link in the pages at the root, in docs/ and in reports/README leads somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "reports/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")


def prose(page: Path) -> str:
    """The page without what it shows in blocks of code."""
    return re.sub(r"^```.*?^```$|^    .*?$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Names of headings as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    found: list[str] = []
    for title in re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        name = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        earlier = found.count(name)
        found += [name] if not earlier else [name, f"{name}-{earlier}"]
    return set(found)


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert [] == broken_links(page)


def test_a_link_to_no_file_and_to_no_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# The `head` of it\n[a](#the-head-of-it) [b](#other) [c](none.md) [d](https://e.org/none)\n"
    )
    assert ["#other", "none.md"] == broken_links(page)


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(page))]
        waiting += [path for path in targets if path.suffix == ".md" and path.is_relative_to(ROOT / "docs")]
    assert [] == [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in reached]


def texts(module: Path) -> Iterator[str]:
    """The strings of a module that are no docstrings."""
    tree = ast.parse(module.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_messages_name_pages_that_a_wheel_can_print() -> None:
    """`dlperf docs PAGE` prints it. Reports are also for readers who have no dlperf."""
    modules = [path for path in (ROOT / "dlperf").rglob("*.py") if path.parent.name != "report"]
    naming = [module for module in modules if "docs/" in module.read_text("utf-8")]
    named = {text for module in naming for text in texts(module) if re.search(r"docs/\w+(/\w+)?\.md", text)}
    assert set() == named
    commanded = {
        page
        for path in [*modules, *ROOT.glob("sweeps/*.yaml"), *ROOT.glob("clusters/*.yaml")]
        for page in re.findall(r"`dlperf docs ([a-z][a-z/-]*)`", path.read_text("utf-8"))
    }
    assert commanded
    assert [] == [page for page in sorted(commanded) if not (ROOT / f"docs/{page}.md").exists()]
