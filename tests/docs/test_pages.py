"""Each policy has a page of one form; each provider and each error has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator.errors
from orchestrator import providers

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = ("About", "Usage", "Defaults", "Events", "Diagram", "Anti-patterns")


@pytest.mark.parametrize("page", sorted((DOCS / "policies").glob("*.md")), ids=lambda page: page.stem)
def test_the_page_of_a_policy_has_its_sections_in_order(page):
    headings = [line[3:] for line in page.read_text().splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)


def test_every_provider_has_a_page_that_names_it():
    pages = [page.read_text() for page in (DOCS / "providers").glob("*.md")]
    classes = [name for name in providers.__all__ if name.endswith("Provider") and name != "BaseProvider"]
    assert [name for name in classes if not any(page.startswith("# ") and name in page for page in pages)] == []


def test_every_error_is_in_the_reference():
    reference = (DOCS / "errors.md").read_text()
    names = [name for name in orchestrator.errors.__all__ if name.endswith("Error")]
    assert [name for name in names if f"| `{name}` |" not in reference] == []
