"""Every Python block of README and docs runs: the blocks of a page in order, in one namespace, in one loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<mark><!-- not run: .+ -->\n+)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str]]:
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start("code")), match["code"])
        for match in BLOCK.finditer(text)
        if match["mark"] is None
    ]


async def run(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "example"}
    for line, code in blocks(page):
        tree = ast.parse("\n" * line + code)
        compiled = compile(tree, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, namespace)
        if inspect.iscoroutine(result):
            await result


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists() and blocks(page)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_examples_of_the_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asyncio.run(run(page))
