"""What the page says first: who did best, by how much, and in colours that everybody can tell apart."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from itertools import combinations

import pytest

from orchestrator.simulation import Scenario, simulate
from orchestrator.simulation._style import COLOURS, STATES
from orchestrator.simulation._table import ranking, verdict
from orchestrator.simulation.report import document, page
from unit.simulation.worlds import scenario

# How protanopes, deuteranopes and tritanopes see linear RGB: Machado, Oliveira, Fernandes 2009, severity 1.
VISIONS = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=2000", "--dump-dom",
)


def linear(colour):
    values = [int(colour[n:n + 2], 16) / 255 for n in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]


def lab(colour, matrix):
    r, g, b = (min(1, max(0, sum(map(float.__mul__, map(float, row), linear(colour))))) for row in matrix)
    xyz = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505, 0.2126 * r + 0.7152 * g + 0.0722 * b, (
        0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def luminance(colour):
    return sum(map(float.__mul__, (0.2126, 0.7152, 0.0722), linear(colour)))


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stay_apart_whoever_looks(theme, vision):
    for palette, least in ((COLOURS, 20), (STATES.values(), 16)):
        seen = [lab(pair[theme], VISIONS[vision]) for pair in palette]
        apart = [sum((p - q) ** 2 for p, q in zip(*pair, strict=True)) ** 0.5 for pair in combinations(seen, 2)]
        assert min(apart) > least


def test_lines_stand_out_from_the_paper():
    for theme, paper in enumerate(("#ffffff", "#15171c")):
        for pair in COLOURS:
            low, high = sorted((luminance(pair[theme]), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 3


def cell(p99=1.0, failed=0.0, cost=1.0, **more):
    return {
        "answered": 100 - failed, "errors": {"ServerError": failed}, "in_time": 90.0, "calls": 10,
        "latency": {"p50": 0.5, "p95": 0.8, "p99": p99}, "first_token": {"p50": 0.1, "p95": 0.2, "p99": 0.3},
        "attempts_per_request": 1.0, "cost_per_1000": cost, "share": {"p0": 100.0}, "latency_cdf": [0.1, 0.5, 1.0],
        "timeline": {"answered": [5] * 10}, "breakers": [], **more,
    }


def test_whoever_gives_up_is_not_ranked_by_its_latency():
    hasty, worse = cell(0.1, failed=3.0), cell(failed=9.0)
    cells = {"hasty": hasty, "slow": cell(3.0), "fast": cell(2.0, failed=0.05), "worse": worse}
    assert ranking(cells) == ["fast", "slow", "hasty", "worse"]


def test_the_verdict_names_the_best_of_those_that_may_be_compared():
    cells = {"a": cell(3.0, cost=2.0), "b": cell(2.0, cost=3.0), "hasty": cell(0.1, failed=3.0, cost=0.1)}
    told = verdict({"cells": cells}, list(cells))
    assert told == (
        "Fewest errors: a and b (0.00 %); least p99 latency: b (2.00 s); cheapest: a ($2.000 per 1 000 answers)."
    )
    assert verdict({"cells": {"a": cell()}}, ["a"]) == ""
    assert verdict({"cells": {name: cell() for name in "abc"}}, list("abc")) == ""


def compared(**fields):
    world = {
        "description": "", "seed": 1, "duration_s": 10.0, "warm_up_s": 0.0, "slo_s": None, "providers": ["p0"],
        "episodes": [], "cells": {"mine": cell(2.0), "theirs": cell(3.0)},
        "best": {
            "own": {"errors": ["mine", 0.0], "p99": ["mine", 2.004], "first_token_p99": None, "cost": ["mine", 1.0]},
            "rival": {"errors": ["theirs", 1.5], "p99": ["theirs", 2.0], "first_token_p99": ["theirs", 3.0]},
        },
    }
    told = {"mine": {"kind": "own", "order": 0}, "theirs": {"kind": "rival", "order": 1}}
    return {"quantiles": [0.0, 0.5, 1.0], "strategies": told, "scenarios": {"one": world, "two": world}, **fields}


def section(html, title):
    return html[html.index(f"<h2>{title}"):].split("</section>")[0]


def test_the_best_of_each_kind_stand_side_by_side_and_what_looks_alike_has_no_winner():
    told = section(page(compared()), "The best strategy in each scenario")
    row = re.search(r"<th scope=\"row\"><a [^>]*>one</a></th>(.*?)</tr>", told)[1]
    assert re.findall(r'<td( class="best")?>([^<]+)(?:<small>(\w+)</small>)?', row) == [
        (' class="best"', "0.00 %", "mine"), ("", "1.50 %", "theirs"), ("", "2 s", "mine"), ("", "2 s", "theirs"),
        ("", "–", ""), ("", "3 s", "theirs"), ("", "$1.000", "mine"), ("", "–", ""),
    ]


def test_the_mean_regret_is_sorted_and_tells_its_least():
    regrets = {
        "mine": {"oracle": {"latency_p99": 0.5}, "state": {"latency_p99": 0.2, "cost": None}},
        "theirs": {"oracle": {"latency_p99": 0.4}, "state": {"latency_p99": 0.1, "cost": 0.3}},
        "lost": {"oracle": {"latency_p99": None}, "state": {}},
    }
    told = section(page(compared(mean_regret=regrets)), "Mean regret")
    assert re.findall(r"<tr><th scope=\"row\">(\w+)", told) == ["theirs", "mine", "lost"]
    assert re.findall(r"<td[^>]*>([^<]+)", told) == ["+40", "+10", "+30", "+50", "+20", "–", "–", "–", "–"]
    assert "Mean regret" not in page(compared())


def test_curves_that_hide_each_other_are_said_to_be_alike():
    assert page(compared()).count("(the same under all strategies)") == 2
    other = compared()
    other["scenarios"]["one"]["cells"]["theirs"]["timeline"] = {"answered": [4] * 10}
    assert "(the same under all strategies)" not in page(other)


@pytest.mark.real_time
async def test_a_browser_reads_the_page_without_a_word_on_its_console(tmp_path):
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser on this machine")
    hole = {"kind": "black_hole", "from_s": 20, "until_s": 40}
    world: Scenario = scenario({"name": "p", "episodes": [hole], "prices": {"output": 5}}, {}, warm_up_s=5, slo_s=3)
    runs = [simulate(world, name, exact_breakers=True) for name in ("round-robin", "least-latency")]
    html = page(json.loads(json.dumps(document([(world, runs)]))))
    ask = (
        "const curve = () => getComputedStyle(document.querySelector('path.line.k1')).display;"
        "const before = curve(); document.querySelector('input.t1').checked = false;"
        "document.title = before + ' then ' + curve();"
    )
    (tmp_path / "page.html").write_text(html.replace("</body>", f"<script>{ask}</script></body>"), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        found, *CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    try:
        shown, said = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert "<title>inline then none</title>" in shown.decode()
    assert [line for line in said.decode().splitlines() if "CONSOLE" in line] == []
