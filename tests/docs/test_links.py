"""Every relative link of the project's pages leads to a file, every anchor to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$", re.MULTILINE)


def targets(text: str) -> list[str]:
    return [match["target"] for match in LINK.finditer(CODE.sub("code", text))]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them; a repeated heading gets a number."""
    found: set[str] = set()
    for match in HEADING.finditer(FENCED.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["text"]).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        name, number = slug, 0
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    wrong = []
    for target in targets(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_links_of_the_page_lead_somewhere(page):
    assert broken(page) == []


def test_every_page_of_docs_can_be_reached_from_the_readme():
    seen, open_ = set(), [ROOT / "README.md"]
    while open_:
        page = open_.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        open_ += [
            (page.parent / target.partition("#")[0]).resolve()
            for target in targets(page.read_text())
            if not re.match(r"[a-z]+:|#", target)
        ]
    assert sorted(page.relative_to(ROOT).as_posix() for page in set(PAGES) - seen if page.parent != ROOT) == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[x](gone.md) [y](#a-b-c) [z](#a-b) `[q](not-a-link.md)`\n")
    assert anchors(page.read_text()) == {"a-b-c"}
    assert targets(page.read_text()) == ["gone.md", "#a-b-c", "#a-b"]
    assert broken(page) == ["gone.md", "#a-b"]
