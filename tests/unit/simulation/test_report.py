"""The report says what the runs say: scales, curves and tables on data small enough to check by hand."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from math import nan

import pytest

from orchestrator.simulation import Run, simulate
from orchestrator.simulation._charts import Line, distribution, frontier, frontier_of, shares
from orchestrator.simulation._svg import Linear, Log, element, number, path, short, spanning
from orchestrator.simulation._table import overview
from orchestrator.simulation._timeline import breaker_spans, breakers, buckets, timeline
from orchestrator.simulation.report import BINS, QUANTILES, as_json, cell, columns, document, page, rows
from orchestrator.simulation.run import BreakerChange, Requests, Timeline
from orchestrator.simulation.world import Ledger
from unit.simulation.worlds import job, scenario

EVIL = "<img src=x onerror=alert(1)> & \"two\" 'quotes'"
VOID = {"meta", "input", "br"}


def run(*ended, warm_up=0.0, duration=60.0, breakers=()):
    """A run of requests, each (begun, latency or the name of an error), answered by the only provider."""
    requests = Requests(Ledger())
    for at, outcome in ended:
        asked = job()
        asked.at = at
        requests.begin(asked)
        if isinstance(outcome, str):
            requests.failed(asked, 1.0, outcome)
        else:
            requests.ended(asked, outcome, outcome / 2, 0)
    requests.close()
    changes = [BreakerChange(*change) for change in breakers]
    return Run("test", "mine", 1, ("p0",), duration, warm_up, None, requests, Timeline(breakers=changes))


def line(number=0, kind="own", name="mine", **figures):
    figures = {
        "answered": 100.0, "latency": {"p50": 1.0, "p95": 2.0, "p99": 3.0}, "latency_cdf": [1.0, 2.0, 3.0],
        "cost_per_1000": 1.0, "share": {"p0": 100.0}, "timeline": {"answered": [60] * 60, "p95": [2.0] * 60},
        "breakers": [], **figures,
    }
    return Line(name, number, kind, figures)


def told(**fields):
    return {"duration_s": 60.0, "warm_up_s": 0.0, "providers": ["p0", "p1"], "episodes": [], **fields}


def coordinates(markup, class_):
    """The points of the first line of that class."""
    drawn = re.search(rf'<path class="{class_}[^"]*" d="M([^"]+)"', markup)[1]
    return [tuple(map(float, pair.split())) for pair in drawn.replace("M", "L").split("L")]


@pytest.fixture(scope="module")
def compared():
    """Two strategies in a world with trouble, an evil name, and one world without any answer."""
    hole = {"name": EVIL, "episodes": [{"kind": "black_hole", "from_s": 20, "until_s": 40}], "prices": {"output": 5}}
    troubled = scenario(hole, {}, description=EVIL, warm_up_s=5, slo_s=3)
    dead = scenario(
        {"episodes": [{"kind": "outage", "from_s": 0, "until_s": 999}]}, name="dead", duration_s=10,
        router={"retry": {"max_retries": 0}},
    )
    strategies = ("round-robin", "least-latency")
    return document(
        (world, [simulate(world, strategy, exact_breakers=True) for strategy in strategies])
        for world in (troubled, dead)
    )


@pytest.mark.parametrize(
    ("scale", "value", "at"),
    [
        (Linear(0, 10, 100, 200), 0, 100), (Linear(0, 10, 100, 200), 5, 150), (Linear(0, 10, 200, 100), 2.5, 175),
        (Log(1, 100, 0, 200), 1, 0), (Log(1, 100, 0, 200), 10, 100), (Log(0.1, 10, 300, 100), 10, 100),
    ],
)
def test_a_scale_puts_a_value_where_it_belongs(scale, value, at):
    assert scale(value) == pytest.approx(at)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Linear(0, 1, 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]), (Linear(0, 300, 0, 1), [0, 50, 100, 150, 200, 250, 300]),
        (Linear(3, 10, 0, 1), [4, 6, 8, 10]), (Log(0.9, 11, 0, 1), [1, 2, 5, 10]),
        (Log(0.05, 200, 0, 1), [0.1, 0.3, 1, 3, 10, 30, 100]), (Log(1e-3, 1e4, 0, 1), [10.0**n for n in range(-3, 5)]),
        (Log(1.2, 1.9, 0, 1), [1.2, 1.4, 1.6, 1.8]),
    ],
)
def test_ticks_are_round_values_within_the_scale(scale, ticks):
    assert scale.ticks() == pytest.approx(ticks)


def test_an_axis_begins_at_nothing_unless_the_values_differ_much():
    assert spanning([2, 10], 0, 1)[:2] == pytest.approx((0, 10.8))
    assert isinstance(spanning([0.1, 10], 0, 1), Log)
    assert isinstance(spanning([0, 10], 0, 1), Linear)
    assert spanning([0, 0], 0, 1).high == 1
    assert spanning([], 0, 1).high > 0


def test_a_path_is_interrupted_where_there_is_no_value():
    assert path([(0, 1), (2.345, 3), None, (4, 5), None, None, (6, 7), (8, 9)]) == "M0 1L2.35 3M4 5L4 5M6 7L8 9"
    assert path([None]) == ""


def test_what_is_not_finite_is_never_drawn():
    assert number(-0.001) == "0"
    with pytest.raises(ValueError, match="no coordinate"):
        number(nan)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234.4, "1234"), (12.34, "12.3"), (0.00012, "0.00012"), (5.0, "5"), (1200, "1200")]
)
def test_a_short_figure_has_three_digits(value, text):
    assert short(value) == text


def test_texts_and_attributes_are_escaped_and_markup_is_not_twice():
    inner = element("b", "<&", title='"')
    assert element("p", inner, "<") == '<p><b title="&quot;">&lt;&amp;</b>&lt;</p>'


def test_the_distribution_is_of_all_requests_and_ends_below_100_with_errors():
    drawn = distribution([line(answered=50.0)], (0.0, 0.5, 1.0), None)
    points = coordinates(drawn, "line")
    assert [y for _, y in points] == pytest.approx([296, 296 - 270 * 0.25, 296 - 270 * 0.5])
    begin, middle, end = (x for x, _ in points)
    # 2 s lie at log 2 / log 3 between 1 s and 3 s; 1 s is left of the axis' beginning, or on it
    assert 52 <= begin < middle < end <= 526
    assert distribution([line(latency_cdf=[])], (0.0, 0.5, 1.0), None) is None


def test_equal_factors_are_equal_distances_in_the_distribution():
    drawn = distribution([line(latency_cdf=[1.0, 2.0, 4.0, 8.0])], (0.1, 0.4, 0.7, 1.0), slo=4.0)
    begin, second, third, end = (x for x, _ in coordinates(drawn, "line"))
    assert second - begin == pytest.approx(third - second, abs=0.02)
    assert third - second == pytest.approx(end - third, abs=0.02)
    assert f'class="slo" x1="{third:g}"' in drawn


def test_nobody_beats_what_is_on_the_frontier():
    assert frontier_of([(3, 1), (1, 3), (2, 2), (2, 4), (3, 2), (1, 3)]) == [(1, 3), (2, 2), (3, 1)]


def test_strategies_that_fail_are_hollow_and_no_part_of_the_frontier_and_neither_is_an_oracle():
    cheap = line(1, name="cheap", cost_per_1000=0.5, answered=90.0)
    oracle = line(2, "oracle", name="oracle", cost_per_1000=0.4)
    slow = line(3, name="slow", cost_per_1000=0.8, latency={"p50": 1.0, "p95": 2.0, "p99": 6.0})
    drawn = frontier([line(), cheap, oracle, slow])
    assert drawn.count("point hollow") == 1
    edge = re.search(r'class="edge" d="M([\d. ]+)L([\d. ]+)"', drawn)
    centres = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert len(centres) == 4  # from the least p99 on, then by cost: oracle, cheap, mine, slow
    assert [tuple(point.split()) for point in edge.groups()] == [centres[3], centres[2]]


def test_without_any_difference_in_cost_there_is_no_frontier():
    for first, second in ((0.0, 0.0), (None, None), (1.0, 1.01), (None, 1.0)):
        assert frontier([line(cost_per_1000=first), line(1, cost_per_1000=second)]) is None
    assert frontier([line(cost_per_1000=1.0), line(1, cost_per_1000=1.1)]) is not None
    assert frontier([line(cost_per_1000=0.0), line(1, cost_per_1000=1.0)]) is not None


def test_a_bar_holds_all_requests_and_those_without_an_answer():
    drawn = shares(line(answered=80.0, share={"p0": 75.0, "p1": 25.0}), ["p0", "p1"])
    places = re.findall(r'class="share (\w+)" x="([\d.]+)" y="2" width="([\d.]+)"', drawn)
    assert places == [("p0", "0", "420"), ("p1", "420", "140"), ("none", "560", "140")]
    assert "no answer: 20.00 % of the requests" in drawn


@pytest.mark.parametrize(
    ("counts", "duration", "rates"),
    [([10, 20], 20, [1, 2]), ([], 20, []), ([3] * 900, 900, [3] * 90), ([3] * 100, 50, [6] * 90)],
)
def test_counts_become_rates_whatever_the_number_of_parts(counts, duration, rates):
    assert buckets(counts, duration) == pytest.approx(rates)


def test_lines_and_bands_of_the_timeline_share_their_time():
    episode = {"provider": "p1", "kind": "brown_out", "from_s": 15.0, "until_s": 45.0}
    drawn = timeline([line()], told(episodes=[episode], warm_up_s=6.0))
    assert re.search(r'class="band" x="364" y="[\d.]+" width="488"', drawn)
    assert re.search(r'class="warm" x="120" y="[\d.]+" width="97.6"', drawn)
    first, *_, last = coordinates(drawn, "line thin")
    assert (first[0], last[0]) == pytest.approx((120 + 976 / 120, 1096 - 976 / 120), abs=0.01)
    assert "p1: brown out, 15–45 s" in drawn
    assert "0–1 s\nmine: 60/s, p95 2 s" in drawn


def test_without_p95_the_timeline_has_one_panel():
    assert "p95 of those" not in timeline([line(timeline={"answered": [1, 2]})], told())
    assert "p95 of those" in timeline([line()], told())


def test_a_time_without_answers_interrupts_the_line():
    drawn = timeline([line(timeline={"answered": [1, 0, 0, 1], "p95": [1.0, None, None, 2.0]})], told())
    assert [len(re.findall("M", d)) for d in re.findall(r'class="line thin [^"]*" d="([^"]+)"', drawn)] == [1, 2]


def test_breaker_states_become_spans():
    changes = [[10, "p0", "closed", "open"], [20, "p0", "open", "half-open"], [21, "p0", "half-open", "closed"],
               [50, "p0", "closed", "open"], [5, "p1", "open", "closed"]]
    assert breaker_spans(changes, 60.0) == {
        "p0": [(10, 20, "open"), (20, 21, "half-open"), (50, 60, "open")], "p1": [(0, 5, "open")],
    }
    drawn = breakers(line(breakers=changes), told())
    assert re.search(rf'class="span open" x="{120 + 976 / 6:.2f}" y="1" width="{976 / 6:.2f}"', drawn)
    assert breakers(line(), told()) is None


def test_a_cell_counts_by_the_time_a_request_began_and_the_warm_up_only_in_the_timeline():
    made = cell(run((0.5, 1.0), (12.0, 2.0), (12.5, 4.0), (59.9, "ServerError"), warm_up=10, duration=60.0))
    assert (made["requests"], made["answered"], made["failed"]) == (3, 66.666667, 33.333333)
    assert made["latency_cdf"][0] == 2.0
    assert made["latency_cdf"][-1] == 4.0
    assert made["first_token_cdf"][QUANTILES.index(0.5)] == 1.0
    assert [n for n, count in enumerate(made["timeline"]["answered"]) if count] == [0, 12]
    assert made["timeline"]["failed"] == [[BINS - 1, 1]]
    assert made["timeline"]["p95"][12] == 4.0
    assert made["timeline"]["p95"][13] is None


def test_a_cell_tells_what_the_breakers_did():
    made = cell(run((1.0, 1.0), breakers=[(3.0, "p0", "closed", "open", "why")]))
    assert made["breakers"] == [[3.0, "p0", "closed", "open"]]


def test_the_table_has_a_column_for_regret_and_in_time_only_where_there_is_any():
    plain = {"cells": {"mine": cell(run((1.0, 1.0), (2.0, 3.0)))}, "slo_s": None}
    assert [column.title for column in columns(plain)][:2] == ["answered %", "errors %"]
    assert rows(plain)[0][:4] == ("mine", "100.00", "0.00", "1.00")
    plain["slo_s"] = 3.0
    regret = {"first_token_p99": 0.126, "latency_p99": None, "cost": -0.001}
    plain["cells"]["mine"]["regret"] = {"oracle": regret, "state": {}}
    plain["cells"]["other"] = {**plain["cells"]["mine"], "regret": {"oracle": {"latency_p99": 0.5}}}
    assert [row[-3:] for row in rows(plain)] == [("+13", "–", "+0"), ("–", "+50", "–")]
    assert [column.title for column in columns(plain)][1] == "in ≤ 3 s %"


@pytest.mark.parametrize(("value", "shown"), [(99.996, ">99.99"), (100.0, "100.00"), (0.004, "<0.01"), (0.0, "0.00")])
def test_nearly_all_is_not_shown_as_all(value, shown):
    made = {"slo_s": None, "cells": {"mine": {**cell(run((1.0, 1.0))), "answered": value}}}
    assert rows(made)[0][1] == shown


def test_the_same_runs_give_the_same_bytes(compared):
    again = scenario(warm_up_s=5)
    first, second = (as_json(document([(again, [simulate(again)])])) for _ in range(2))
    assert first == second
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert json.loads(as_json(compared)) == json.loads(json.dumps(compared))


def test_a_page_of_the_written_json_is_the_page_of_the_document(compared):
    read = json.loads(json.dumps(compared))
    assert page(read) == page(compared)


def test_names_given_twice_are_refused():
    world = scenario()
    runs = [run((1.0, 1.0))] * 2
    with pytest.raises(ValueError, match="two runs of 'test' are named 'mine'"):
        document([(world, runs)])
    with pytest.raises(ValueError, match="two scenarios are named 'test'"):
        document([(world, runs[:1])] * 2)


class Structure(HTMLParser):
    """Balanced tags, attributes given once, ids given once."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.seen, self.links = [], [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        self.look(tag, attrs)

    def handle_starttag(self, tag, attrs):
        self.look(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def look(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        assert not any(name.startswith("on") for name in names)
        self.seen.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in {"href", "src", "action"}]
        for name, value in attrs:
            if name in {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}:
                assert re.fullmatch(r"-?\d+(\.\d+)?", value), (tag, name, value)
            if name == "d":
                assert re.fullmatch(r"(M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)*)*", value), value


def test_the_page_is_sound_loads_nothing_and_runs_nothing(compared):
    html = page(compared, title=EVIL)
    structure = Structure(html)
    assert len(structure.ids) == len(set(structure.ids)) == 2
    assert {link.removeprefix("#") for link in structure.links} == set(structure.ids)
    assert structure.seen.isdisjoint({"script", "img", "link", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import|NaN|nan\b|undefined|None|inf\b", html)
    schemes = ("@media screen and (prefers-color-scheme: dark)", "@media print")
    for needed in ('lang="en"', *schemes, "There was no answer.", "<caption>"):
        assert needed in html


def test_every_strategy_has_a_switch_and_every_image_a_name(compared):
    html = page(compared)
    assert html.count('type="checkbox"') == 4
    assert "section:has(.t1:not(:checked)) .k1 { display: none }" in html
    assert html.count('role="img"') == html.count('role="img" aria-label="')
    assert "k2 " not in html


def test_the_overview_compares_latencies_only_of_those_that_fail_the_least():
    base = cell(run((1.0, 1.0)))
    figures = {"a": (3.0, 0.0), "b": (2.0, 0.04), "c": (1.0, 5.0), "o": (0.5, 0.0)}
    cells = {
        name: {**base, "latency": {"p50": 1.0, "p95": 1.0, "p99": p99}, "errors": {"ServerError": errors}}
        for name, (p99, errors) in figures.items()
    }
    shown, winners = overview({"cells": cells}, ["a", "b", "c"])
    assert shown == {"a": "3.00", "b": "2.00", "c": "1.00, 5.00 % errors", "o": "0.50"}
    assert winners == {"b"}


def test_a_page_of_several_scenarios_begins_with_an_overview(compared):
    html = page(compared)
    overview = "<h2>p99 latency of every strategy in every scenario</h2>"
    assert html.index(overview) < html.index('id="scenario-0"')
    one = {**compared, "scenarios": dict(list(compared["scenarios"].items())[:1])}
    assert overview not in page(one)


def test_of_many_strategies_the_best_of_each_kind_are_shown_at_first(compared):
    world = dict(next(iter(compared["scenarios"].values())))
    base = next(iter(world["cells"].values()))
    kinds = ["own"] * 5 + ["rival"] * 4 + ["oracle"]
    world["cells"] = {f"s{n}": {**base, "answered": 90.0 + n} for n in range(10)}
    told = {f"s{n}": {"kind": kind, "real": False, "about": EVIL, "order": n} for n, kind in enumerate(kinds)}
    html = page({**compared, "scenarios": {"one": world}, "strategies": told})
    assert re.findall(r'class="t(\d)" checked', html) == ["2", "3", "4", "7", "8", "9"]
    assert "(rival, a model of it)" in html
    Structure(html)


def test_the_best_of_a_column_is_bold_and_an_oracle_does_not_compete(compared):
    world = dict(next(iter(compared["scenarios"].values())))
    base = next(iter(world["cells"].values()))
    world["cells"] = {name: {**base, "cost_per_1000": cost} for name, cost in (("a", 2.0), ("b", 3.0), ("o", 1.0))}
    told = {"o": {"kind": "oracle", "order": 2}, "a": {"kind": "own", "order": 0}, "b": {"kind": "own", "order": 1}}
    html = page({**compared, "scenarios": {"one": world}, "strategies": told})
    assert re.findall(r'<td class="best">([^<]+)', html) == ["2.000"]


@pytest.mark.real_time
async def test_a_browser_opens_the_page_and_has_nothing_to_say(compared, tmp_path):
    playwright = pytest.importorskip("playwright.async_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser on this machine")
    (tmp_path / "page.html").write_text(page(compared), encoding="utf-8")
    said = []
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=found)
        opened = await browser.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        await opened.goto((tmp_path / "page.html").as_uri())
        assert await opened.locator("path.line.k1").first.is_visible()
        await opened.locator("input.t1").first.uncheck()
        assert not await opened.locator("path.line.k1").first.is_visible()
        await browser.close()
    assert said == []
