"""The page on hostile input tells the limits as they are."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.providers import WireLimits

PAGE = Path(__file__).parents[2] / "docs" / "policies" / "hostile-input.md"


def test_the_table_has_every_limit_with_its_default():
    told = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: int(value) for name, value in told} == WireLimits().model_dump()
