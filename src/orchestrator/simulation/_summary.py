"""What a report of several scenarios begins with: p99 everywhere, the best of each kind, the mean regret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.simulation._svg import Markup, element, join, short
from orchestrator.simulation._table import GROUPS, ordered, overview, percent, ratio, strategy_kind

__all__ = ["summary_tables"]

_BEST: dict[str, tuple[str, Callable[[float], str]]] = {
    "errors": ("errors", lambda value: f"{percent(value)} %"),
    "p99": ("p99 latency", lambda value: f"{short(value)} s"),
    "first_token_p99": ("p99 to the first token", lambda value: f"{short(value)} s"),
    "cost": ("cost of 1 000 answers", "${:.3f}".format),
}
_REGRETS = {"first_token_p99": "first token p99", "latency_p99": "latency p99", "cost": "cost"}


def summary_tables(document: Mapping[str, Any]) -> Markup:
    """The sections above the scenarios; a document has ``best`` and ``mean_regret`` only where they were worked out."""
    return join([*_best(document), *_mean_regret(document), _overview(document)])


def _overview(document: Mapping[str, Any]) -> Markup:
    scenarios = document["scenarios"]
    names = ordered(document, {"cells": {name: None for each in scenarios.values() for name in each["cells"]}})
    fair = [name for name in names if strategy_kind(document, name) != "oracle"]
    told = [overview(scenario, fair) for scenario in scenarios.values()]
    rows = [
        element("tr", _row_head(document, name), *(
            element("td", *_in_lines(texts.get(name, "–")), class_="best" if name in winners else None)
            for texts, winners in told
        ))
        for name in names
    ]
    note = ("Seconds within which 99 % of the answers came, and errors from 0.05 % on. Bold: the best in its scenario, "
            "among those with the fewest errors (within 0.1 points), oracles aside.")
    head = element("tr", element("th", "strategy", scope="col"), *_links(document))
    return _section("p99 latency of every strategy in every scenario", note, [head], rows, class_="overview")


def _in_lines(text: str) -> Iterator[str]:
    """The latency, and below it the errors."""
    latency, comma, errors = text.partition(", ")
    yield latency
    if comma:
        yield element("small", errors)


def _best(document: Mapping[str, Any]) -> Iterator[Markup]:
    """Per scenario, our best and the best rival side by side."""
    found = {name: each["best"] for name, each in document["scenarios"].items() if each.get("best")}
    if not any(pair for each in found.values() for pair in (each.get("rival") or {}).values()):
        return
    rows = []
    for place, name in enumerate(document["scenarios"]):
        if name in found:
            cells = (cell for figure in _BEST for cell in _duel(found[name], figure))
            link = element("a", name, href=f"#scenario-{place}")
            rows.append(element("tr", element("th", link, scope="row"), *cells))
    groups = (element("th", title, scope="colgroup", colspan=2) for title, _ in _BEST.values())
    sides = (element("th", side, scope="col") for _ in _BEST for side in ("own", "rival"))
    head = [element("tr", element("th", "scenario", scope="col", rowspan=2), *groups), element("tr", *sides)]
    note = ("The best of this library's strategies beside the best rival, by each figure. Bold: the better of the two. "
            "Cost counts only among those with the fewest errors (within 0.1 points).")
    yield _section("The best strategy in each scenario", note, head, rows, class_="overview")


def _duel(best: Mapping[str, Any], figure: str) -> Iterator[Markup]:
    sides = [(best.get(kind) or {}).get(figure) for kind in ("own", "rival")]
    shown = [None if side is None else _BEST[figure][1](side[1]) for side in sides]
    least = min((side[1] for side in sides if side is not None), default=None)
    differ = None not in shown and shown[0] != shown[1]
    for side, text in zip(sides, shown, strict=True):
        if side is None or text is None:
            yield element("td", "–")
        else:
            class_ = "best" if differ and side[1] == least else None
            yield element("td", text, element("small", str(side[0])), class_=class_)


def _mean_regret(document: Mapping[str, Any]) -> Iterator[Markup]:
    regrets = document.get("mean_regret") or {}
    shown = [
        (against, figure) for against in GROUPS for figure in _REGRETS
        if any((each.get(against) or {}).get(figure) is not None for each in regrets.values())
    ]
    if not shown:
        return
    fair = [name for name in regrets if strategy_kind(document, name) != "oracle"]
    first = next(pair for pair in [("state", "latency_p99"), shown[0]] if pair in shown)
    fair.sort(key=lambda name: _order(_of(regrets[name], first)))
    least = {pair: _least([_of(regrets[name], pair) for name in fair]) for pair in shown}
    rows = [
        element("tr", _row_head(document, name), *(
            element("td", text := _shown(_of(regrets[name], pair)), class_="best" if text == least[pair] else None)
            for pair in shown
        ))
        for name in fair
    ]
    groups = (
        element("th", title, scope="colgroup", colspan=number) for against, title in GROUPS.items()
        if (number := sum(pair[0] == against for pair in shown))
    )
    titles = (element("th", _REGRETS[figure], scope="col") for _, figure in shown)
    head = [element("tr", element("th", "strategy", scope="col", rowspan=2), *groups), element("tr", *titles)]
    note = (f"Percent above an oracle, the mean of {len(document['scenarios'])} scenarios; least first, by "
            f"{_REGRETS[first[1]]} under “{GROUPS[first[0]]}”. A dash: infinite somewhere, or nothing to compare with.")
    yield _section("Mean regret: how far from what was possible", note, head, rows)


def _of(regret: Mapping[str, Any], pair: tuple[str, str]) -> float | None:
    value = (regret.get(pair[0]) or {}).get(pair[1])
    return value if isinstance(value, int | float) else None


def _shown(value: float | None) -> str:
    return "–" if value is None else ratio(value)


def _least(values: Sequence[float | None]) -> str | None:
    """As it is shown; None where all are shown alike."""
    known = [value for value in values if value is not None]
    return _shown(min(known)) if len({_shown(value) for value in known}) > 1 else None


def _order(value: float | None) -> tuple[bool, float]:
    return value is None, value or 0.0


def _row_head(document: Mapping[str, Any], name: str) -> Markup:
    kind = strategy_kind(document, name)
    return element("th", name, "" if kind == "own" else element("small", f" {kind}"), scope="row")


def _links(document: Mapping[str, Any]) -> Iterator[Markup]:
    for place, name in enumerate(document["scenarios"]):
        yield element("th", element("a", name, href=f"#scenario-{place}"), scope="col")


def _section(
    title: str, note: str, head: Sequence[Markup], rows: Sequence[Markup], *, class_: str | None = None
) -> Markup:
    table = element("table", element("thead", *head), element("tbody", *rows), class_=class_)
    scroll = element("div", table, class_="scroll", tabindex="0", role="region", aria_label=title)
    return element("section", element("h2", title), element("p", note, class_="facts"), scroll)
