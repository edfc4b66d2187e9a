"""The figures of the page on choosing a strategy are those of the file under benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "strategies.json").read_text())
SCENARIOS = RESULTS["scenarios"]
PAGE = (ROOT / "docs" / "strategies.md").read_text()
DEFAULT = "least-latency"


def cell(scenario, strategy):
    return SCENARIOS[scenario]["cells"][strategy]


def first(scenario, strategy):
    return seconds(cell(scenario, strategy)["of_all"]["first_token"])


def last(scenario, strategy):
    return seconds(cell(scenario, strategy)["of_all"]["latency"])


def seconds(value):
    return "more than 1 % failed" if value is None else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def usd(scenario, strategy):
    return f"{cell(scenario, strategy)['cost_per_1000']:.2f} USD"


def failed(scenario, strategy):
    return f"{cell(scenario, strategy)['failed']:.2f} %"


def calls(scenario, strategy):
    return f"{cell(scenario, strategy)['attempts_per_request']:.2f} calls"


def percent(value):
    return "infinite" if value is None else f"{100 * value:+.0f} %"


HEDGED, IN_SLO = "least-latency, hedged", "lowest-cost in slo"
DECISIONS = {
    "know nothing yet": [
        first("one slow", DEFAULT), first("one slow", "round-robin"), first("everything at once", DEFAULT),
        first("everything at once", "round-robin"), failed("everything at once", DEFAULT),
        failed("everything at once", "round-robin"), usd("cold start", DEFAULT), usd("cold start", "round-robin"),
    ],
    "care more for late": [
        first("heterogeneous", HEDGED), first("heterogeneous", DEFAULT), calls("steady", HEDGED),
        first("burst", HEDGED), first("burst", DEFAULT),
    ],
    "want a lower bill": [
        usd("quota-bound", "lowest-cost"), usd("quota-bound", DEFAULT), usd("cold start", "lowest-cost"),
        usd("cold start", DEFAULT), first("cold start", "lowest-cost"), first("cold start", DEFAULT),
    ],
    "know how long": [
        usd("price spread", IN_SLO), usd("price spread", DEFAULT), last("price spread", IN_SLO),
        last("price spread", DEFAULT),
    ],
    "hold conversations": [
        usd("sessions", "affinity"), usd("sessions", DEFAULT), first("sessions", "affinity"),
        first("sessions", DEFAULT), first("one slow", "affinity"), first("one slow", DEFAULT),
    ],
    "one main provider": [
        first("cold start", "first-available"), first("cold start", DEFAULT), first("steady", "first-available"),
        first("steady", DEFAULT),
    ],
    "must keep shares": [
        calls("quota-bound", "weighted"), calls("quota-bound", "round-robin"), first("one slow", "weighted"),
        first("one slow", DEFAULT),
    ],
    "every provider": [first("steady", "round-robin"), first("steady", DEFAULT), first("price spread", "round-robin"),
                       first("price spread", DEFAULT)],
    "many processes": [usd("cold start", "least-busy"), usd("cold start", DEFAULT),
                       first("heterogeneous", "least-busy"), first("heterogeneous", DEFAULT)],
    "short, alike calls": [failed("linkerd", "peak-ewma"), failed("linkerd", "round-robin"),
                           last("one slow", "peak-ewma"), last("one slow", DEFAULT)],
    "healthy but unlike": [first("heterogeneous", "prequal"), first("heterogeneous", DEFAULT),
                           first("one slow", "prequal"), first("one slow", DEFAULT)],
    "no failover mends": [failed("everything at once", "best-available"), failed("everything at once", DEFAULT)],
    "weigh price": [usd("price spread", "adaptive"), usd("price spread", DEFAULT), first("cold start", "adaptive"),
                    first("cold start", DEFAULT)],
}


def rows(heading):
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("decision", DECISIONS)
def test_what_a_strategy_gains_and_costs_is_what_was_measured(decision):
    row, = (row for row in rows("The decision") if decision in row)
    assert [figure for figure in DECISIONS[decision] if figure not in row] == []


def test_every_line_of_the_decision_table_is_checked():
    assert len(rows("The decision")) == len(DECISIONS)


def rival(scenario, figure):
    found = SCENARIOS[scenario]["best"]["rival"][figure]
    return "more than 1 % failed" if found is None else f"{seconds(found[1])} {found[0].replace('-routing', '')}"


def expected_scenarios():
    return [
        f"| {name} | {failed(name, DEFAULT)} | {first(name, DEFAULT)} | {first(name, 'round-robin')} "
        f"| {rival(name, 'first_token_p99')} | {first(name, 'state oracle first_token')} "
        f"| {last(name, DEFAULT)} | {rival(name, 'p99')} |"
        for name in sorted(SCENARIOS)
    ]


def expected_regrets():
    told, mean = RESULTS["strategies"], RESULTS["mean_regret"]
    ours = [name for name in sorted(told, key=lambda name: told[name]["order"]) if told[name]["kind"] != "oracle"]
    return ["| " + " | ".join([name, *(
        percent(mean[name][against][figure])
        for figure in ("first_token_p99", "latency_p99") for against in ("state", "oracle")
    )]) + " |" for name in ours]


def test_the_table_of_the_scenarios_is_what_was_measured():
    assert rows("Every scenario") == expected_scenarios()


def expected_late():
    return [
        f"| `{name}` | {100 - cell('price spread', name)['in_time']:.1f} % | {last('price spread', name)} "
        f"| {first('price spread', name)} | {usd('price spread', name)} |"
        for name in ("adaptive", DEFAULT, "round-robin")
    ]


def expected_sessions():
    return [
        f"| `{name}` | {usd('sessions', name)} | {first('sessions', name)} | {last('sessions', name)} |"
        for name in ("affinity", "round-robin", DEFAULT)
    ]


@pytest.mark.parametrize(("strategy", "expected"), [("adaptive", expected_late), ("affinity", expected_sessions)])
def test_what_the_page_of_a_strategy_tells_is_what_was_measured(strategy, expected):
    page = (ROOT / "docs" / "strategies" / f"{strategy}.md").read_text().partition("## Measured")[2]
    assert [line for line in page.splitlines() if line.startswith("|")][2:5] == expected()


def test_the_bill_of_lowest_cost_is_what_was_measured():
    page = " ".join((ROOT / "docs" / "strategies" / "lowest-cost.md").read_text().split())
    paid, oracle = (usd("price spread", name)[:4] for name in (IN_SLO, "average oracle cost"))
    assert f"pays {paid} instead of {oracle} USD" in page


def expected_seeds():
    seeds = json.loads((ROOT / "benchmarks" / "results" / "strategies_seeds.json").read_text())["seeds"]
    means = [seed["mean"] for seed in seeds.values()]
    return ", ".join(f"{percent(mean['first_token_p99'])} and {percent(mean['latency_p99'])}" for mean in means)


def test_the_regrets_with_other_seeds_are_what_was_measured():
    assert f" {expected_seeds()}\n" in PAGE


def test_the_table_of_regrets_is_what_was_measured():
    assert rows("How far from the possible") == expected_regrets()


def test_the_bill_beside_that_of_oracles_is_what_was_measured():
    shown = ("lowest-cost", IN_SLO, "average oracle cost", "state oracle cost", "oracle cost")
    assert rows("The bill, fairly compared") == [
        f"| {name} | {usd('price spread', name)} | {cell('price spread', name)['in_time']:.1f} % "
        f"| {last('price spread', name)} |" for name in shown
    ]


def expected_exceptions():
    found = []
    for name in sorted(SCENARIOS):
        best = SCENARIOS[name]["best"]
        for figure, shown in (("errors", "{:.2f} %"), ("p99", "{:.2f} s"), ("first_token_p99", "{:.2f} s")):
            own, theirs = best["own"][figure], best["rival"][figure]
            if theirs is not None and (own is None or theirs[1] < own[1]):
                told = f"{figure.replace('_', ' ')} | {shown.format(theirs[1])} {theirs[0].replace('-routing', '')}"
                found.append(f"| {name} | {told} | {shown.format(own[1])} {own[0]} |")
    return found


def test_every_scenario_in_which_a_rival_is_better_is_named_with_its_reason():
    page = (ROOT / "docs" / "why" / "default-strategy.md").read_text()
    named = [line for line in page.splitlines() if line.startswith("|") and line.count(" | ") == 4][1:]
    assert [line.rpartition(" | ")[0] + " |" for line in named] == expected_exceptions()
    assert all(len(line.rpartition(" | ")[2]) > 20 for line in named)


def expected_reasons():
    state = {name: RESULTS["mean_regret"][name]["state"] for name in (DEFAULT, "round-robin")}
    cells = [{name: each["cells"][name] for name in state} for each in SCENARIOS.values()]
    paid = [[pair[name]["cost_per_1000"] for name in state] for pair in cells]
    bills = [ours / theirs - 1 for ours, theirs in paid if theirs]

    def both(told):
        return " | ".join(told(name) for name in state)

    def most(figure):
        return both(lambda name: f"{max(pair[name][figure] for pair in cells):.2f}")

    return [
        f"| First token p99 above the oracle's, mean | {both(lambda name: percent(state[name]['first_token_p99']))} |",
        f"| p99 above the oracle's, mean | {both(lambda name: percent(state[name]['latency_p99']))} |",
        f"| Percent failed, in the worst scenario | {most('failed')} |",
        f"| Calls per request, most | {most('attempts_per_request')} |",
        f"| Bill beside that of `round-robin`: least, most | {percent(min(bills))} | {percent(max(bills))} |",
    ]


def test_the_reason_for_the_default_is_what_was_measured():
    page = (ROOT / "docs" / "why" / "default-strategy.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and line.count(" | ") == 2]
    assert rows[1:] == expected_reasons()
