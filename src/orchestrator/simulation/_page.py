"""One page of HTML out of a report's document: nothing is loaded, nothing runs, and every text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from orchestrator.simulation._charts import Line, distribution, frontier, shares
from orchestrator.simulation._style import style
from orchestrator.simulation._summary import summary_tables
from orchestrator.simulation._svg import Markup, element
from orchestrator.simulation._table import Column, best, columns, ordered, ranking, strategy_kind, verdict
from orchestrator.simulation._timeline import STATES, breakers, timeline

__all__ = ["page"]

_AT_FIRST = 6  # strategies shown; the others are a click away
_KINDS = {"own": "", "rival": "rival", "oracle": "oracle, no strategy: a yardstick"}
_NOTES = {
    "Latency distribution": "The further left a curve, the faster; one that ends below 100 % had errors.",
    "Cost against p99 latency": "Lower left is better. Nobody beats the strategies on the dotted line in both. "
                                "Hollow: answered over a point fewer requests than the best.",
    "Timeline": "The bars on top say which provider was in trouble, and how; shaded below, while it lasted. "
                "Grey: the warm-up. Rest the pointer on it for the figures of that time.",
    "Breakers, over the same time": "When the router kept away from a provider (open), tried it (half-open), came back "
                                    "in steps (ramp). A provider that is missing had its breaker closed throughout.",
    "Who answered, percent of all requests": "Whether the load was shared, and how much still went to who was in "
                                             "trouble.",
}

_READ = [
    ("answered, errors", "percent of the requests begun after the warm-up."),
    ("p50, p95, p99", "seconds below which 50, 95, 99 % of the answers lie, from the caller's call."),
    ("attempts per request", "calls that went over the wire, retries, failovers and hedges included."),
    ("$ per 1 000 answers", "what all those attempts cost, the failed and the cancelled ones too."),
    ("regret",
     ("how far above an oracle's best, in percent: of one that knows how long every call would take, or only the state "
      "of every provider.")),
    ("latency distribution", "the further left a curve, the better. One that ends below 100 % had errors."),
    ("cost against latency",
     ("lower left is better. Nobody beats those on the dotted line in both. Hollow: answered over a point fewer "
      "requests than the best, so its figures are not comparable.")),
    ("timeline",
     ("shaded: a provider is in trouble, the bar above says which and how; grey at the left: the warm-up. Rest the "
      "pointer on it for the figures of that time.")),
    ("breakers", "when the router kept away from a provider (open), tried it (half-open), came back in steps (ramp)."),
]


def page(document: Mapping[str, Any], *, title: str = "Strategies compared") -> str:
    """Self-contained HTML of a document as :func:`orchestrator.simulation.report.document` makes it."""
    scenarios = document["scenarios"]
    sections = [
        _section(document, name, scenario, place) for place, (name, scenario) in enumerate(scenarios.items())
    ]
    most = max((len(scenario["cells"]) for scenario in scenarios.values()), default=0)
    links = [element("li", element("a", name, href=f"#scenario-{n}")) for n, name in enumerate(scenarios)]
    head = element(
        "head", element("meta", charset="utf-8"), element("title", title),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("style", Markup(style(most))),
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", _summed_up(document)), _how_to_read()),
        element("nav", element("ul", *links), aria_label="Scenarios") if len(links) > 1 else Markup(),
        element("main", summary_tables(document) if len(links) > 1 else Markup(), *sections, _about(document)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _summed_up(document: Mapping[str, Any]) -> str:
    scenarios, strategies = len(document["scenarios"]), len(document.get("strategies", {}))
    return (
        f"{scenarios} scenario{'s' * (scenarios != 1)}, {strategies} strateg{'ies' if strategies != 1 else 'y'}. "
        "Every figure comes from a simulation: modelled providers and traffic, the same for all strategies."
    )


def _how_to_read() -> Markup:
    terms = [part for term, told in _READ for part in (element("dt", term), element("dd", told))]
    return element("details", element("summary", "How to read this page"), element("dl", *terms))


def _about(document: Mapping[str, Any]) -> Markup:
    told = {name: each for name, each in document.get("strategies", {}).items() if each.get("about")}
    if not told:
        return Markup()
    parts = []
    for name, each in sorted(told.items(), key=lambda item: item[1].get("order", 0)):
        kind = each.get("kind", "own")
        model = ", a model of it" if kind == "rival" and not each.get("real", True) else ""
        parts += [element("dt", name if kind == "own" else f"{name} ({kind}{model})"), element("dd", each["about"])]
    return element("section", element("h2", "The strategies"), element("dl", *parts))


def _section(document: Mapping[str, Any], name: str, scenario: Mapping[str, Any], place: int) -> Markup:
    lines = [
        Line(strategy, number, strategy_kind(document, strategy), scenario["cells"][strategy])
        for number, strategy in enumerate(ordered(document, scenario))
    ]
    quantiles = document.get("quantiles", ())
    cdf, cost = distribution(lines, quantiles, scenario.get("slo_s")), frontier(lines)
    pair = [
        _figure("Latency distribution", cdf, "There was no answer."),
        _figure("Cost against p99 latency", cost, "Nothing to choose: it costs about the same under all strategies."),
    ]
    return element(
        "section",
        element("h2", name, id=f"scenario-{place}"),
        element("p", scenario.get("description", ""), class_="about"), element("p", _facts(scenario), class_="facts"),
        element("p", verdict(scenario, [line.name for line in lines if line.kind != "oracle"]), class_="verdict"),
        _table(lines, columns(scenario)),
        _switches(lines),
        element("div", *pair, class_="pair"),
        _figure("Timeline", timeline(lines, scenario), ""),
        _breakers(lines, scenario), _shares(lines, scenario["providers"]),
    )


def _facts(scenario: Mapping[str, Any]) -> str:
    parts = [f"{scenario['duration_s']:g} s of traffic", f"{len(scenario['providers'])} providers"]
    if scenario["warm_up_s"]:
        parts.insert(1, f"the first {scenario['warm_up_s']:g} s not counted")
    if scenario.get("slo_s") is not None:
        parts.append(f"in time within {scenario['slo_s']:g} s")
    return f"{' · '.join(parts)} · seed {scenario['seed']}"


def _figure(caption: str, drawn: Markup | None, otherwise: str) -> Markup:
    inside = [element("p", otherwise)] if drawn is None else [_note(caption), element("div", drawn, class_="scroll")]
    return element("figure", element("figcaption", caption), *inside)


def _note(caption: str) -> Markup:
    return element("p", _NOTES[caption])


def _table(lines: Sequence[Line], shown: Sequence[Column]) -> Markup:
    groups = []
    for group, members in groupby(shown, lambda column: column.group or column.title):
        among = list(members)
        grouped = bool(among[0].group)
        groups.append(
            element("th", group, scope="colgroup", colspan=len(among)) if grouped
            else element("th", group, scope="col", rowspan=2)
        )
    titles = [element("th", column.title, scope="col") for column in shown if column.group]
    fair = {line.name: line.cell for line in lines if line.kind != "oracle"}
    winners = {column: best(column, fair) for column in shown}
    body = [
        element("tr", element("th", _swatch(line), line.name, _kind(line), scope="row"), *(
            element("td", column.text(line.cell), class_="best" if line.name in winners[column] else None)
            for column in shown
        ))
        for line in _ranked(lines)
    ]
    head = [element("tr", element("th", "strategy", scope="col", rowspan=2), *groups), element("tr", *titles)]
    caption = "Fewest errors first (within 0.1 points alike), then by p99. Bold: the best of its column, oracles aside."
    table = element("table", element("caption", caption),
                    element("thead", *head), element("tbody", *body))
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label="Figures by strategy")


def _ranked(lines: Sequence[Line]) -> list[Line]:
    """Best first, oracles last."""
    named = {line.name: line for line in lines}
    ranked = [named[name] for name in ranking({line.name: line.cell for line in lines})]
    return sorted(ranked, key=lambda line: line.kind == "oracle")


def _kind(line: Line) -> Markup:
    told = _KINDS.get(line.kind, line.kind)
    return element("small", f" {told}") if told else Markup()


def _swatch(line: Line) -> Markup:
    # Without k: a row of the table stays when the strategy's lines are switched off.
    classes = " ".join(line.classes.split()[1:])
    stroke = element("path", class_=f"line {classes}", d="M0 5L26 5")
    return element("svg", stroke, viewBox="0 0 26 10", class_="swatch", aria_hidden="true")


def _switches(lines: Sequence[Line]) -> Markup:
    chosen = _at_first(lines)
    switches = [
        element("label", element("input", type="checkbox", class_=f"t{line.number}",
                                 checked="checked" if line.number in chosen else None), _swatch(line), line.name)
        for line in lines
    ]
    return element("fieldset", element("legend", "Shown in the charts"), *switches)


def _at_first(lines: Sequence[Line]) -> set[int]:
    """All of a few; of many the best three of one's own, the two best rivals and an oracle."""
    if len(lines) <= _AT_FIRST:
        return {line.number for line in lines}
    ranked = sorted(lines, key=lambda line: (-line.cell["answered"], line.cell["latency"]["p99"] or 0.0))
    return {
        line.number for kind, most in (("own", 3), ("rival", 2), ("oracle", 1))
        for line in [line for line in ranked if line.kind == kind][:most]
    }


def _breakers(lines: Sequence[Line], scenario: Mapping[str, Any]) -> Markup:
    drawn = [(line, strips) for line in lines if (strips := breakers(line, scenario)) is not None]
    if not drawn:
        return Markup()
    key = [element("span", element("i", class_=f"span {state}"), state) for state in ("closed", *STATES)]
    rows = [
        element("div", element("p", _swatch(line), line.name), element("div", picture, class_="scroll"),
                class_=f"k{line.number}")
        for line, picture in drawn
    ]
    caption = "Breakers, over the same time"
    return element("figure", element("figcaption", caption), _note(caption), element("p", *key, class_="key"), *rows)


def _shares(lines: Sequence[Line], providers: Sequence[str]) -> Markup:
    caption = "Who answered, percent of all requests"
    key = element("p", *_provider_key(providers), class_="key")
    return element("figure", element("figcaption", caption), _note(caption), key, *(
        element("div", element("p", _swatch(line), line.name), shares(line, providers),
                class_=f"share-row k{line.number}")
        for line in lines
    ))


def _provider_key(providers: Sequence[str]) -> Iterator[Markup]:
    for index, name in enumerate(providers[:20]):
        yield element("span", element("i", class_=f"share p{index % 10}"), name)
    if len(providers) > 20:
        yield element("span", f"and {len(providers) - 20} more")
    yield element("span", element("i", class_="share none"), "no answer")
