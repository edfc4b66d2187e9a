"""The defaults that the tables of docs tell are those of the code, and every setting has its row."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from orchestrator import (
    BreakerPolicy,
    HedgePolicy,
    LimitPolicy,
    ProviderConfig,
    RecoveryPolicy,
    RetryPolicy,
    Router,
    Timeouts,
)

DOCS = Path(__file__).parents[2] / "docs"
UNSET = {"none": None, "–": None, "required": ...}


def rows(page: str, beginning: str) -> dict[str, str]:
    """Setting by setting, the default that a table tells; the first of its lines begins so."""
    lines = (DOCS / page).read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(beginning))
    found: dict[str, str] = {}
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        names, told = (cell.strip() for cell in line.split("|")[1:3])
        settings = re.findall(r"`([\w.]+)`", names)
        values = told.split(", ") if len(settings) > 1 and ", " in told else [told] * len(settings)
        found.update(zip(settings, values, strict=True))
    return found


def value(told: str) -> object:
    """What a cell says: a number with its unit, a literal in code, or that there is none."""
    told = told.strip("`")
    if told in UNSET:
        return UNSET[told]
    if told in ("True", "False"):
        return told == "True"
    if match := re.fullmatch(r"([\d.]+)( s)?", told):
        return float(match[1])
    return {"{}": {}}.get(told, told.strip('"'))


@pytest.mark.parametrize(
    ("page", "beginning", "policy"),
    [
        ("policies/breaker.md", "| `BreakerPolicy` |", BreakerPolicy),
        ("policies/hedging.md", "| Field | Default |", HedgePolicy),
        ("policies/limits.md", "| `Router(limits=LimitPolicy(...))` |", LimitPolicy),
        ("policies/retry.md", "| Field | Default |", RetryPolicy),
        ("policies/recovery.md", "| Field | Default |", RecoveryPolicy),
        ("start.md", "| `ProviderConfig` |", ProviderConfig),
    ],
    ids=lambda part: part if isinstance(part, str) and part.endswith(".md") else "",
)
def test_the_table_of_a_policy_has_every_field_with_its_default(page, beginning, policy):
    told = {name: value(cell) for name, cell in rows(page, beginning).items()}
    fields = {
        name: ... if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in policy.model_fields.items()
    }
    assert told == fields


def test_the_table_of_timeouts_has_every_limit_with_its_seconds():
    told = rows("policies/timeouts.md", "| Limit | Seconds |")
    assert told.pop("attempt") == "half of `total`"
    assert told.pop("ProviderConfig.timeout") == "–"
    assert {name: float(seconds) for name, seconds in told.items()} == Timeouts().model_dump(exclude={"attempt"})
    assert Timeouts().attempt == Timeouts().total / 2


def test_the_table_of_the_router_has_every_argument_with_its_default():
    told = {name: value(cell) for name, cell in rows("start.md", "| `Router(...)` |").items()}
    made = {"retry": "RetryPolicy()", "breaker": "BreakerPolicy()", "timeouts": "Timeouts()", "limits": "LimitPolicy()"}
    arguments = {
        name: made.get(name, None if argument.default == () else argument.default)
        for name, argument in inspect.signature(Router).parameters.items()
    }
    assert told == arguments
