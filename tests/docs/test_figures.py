"""The figures of the README are those of the files under benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


def bad(subject: str) -> int:
    cells = [case[subject]["verdict"] for mode in results("faults.json")["table"].values() for case in mode.values()]
    assert len(cells) == 122
    return sum(verdict not in {"answered", "clean error"} for verdict in cells)


def test_the_table_says_what_was_measured():
    overhead, strategies = results("overhead.json"), results("strategy_check.json")["results"]
    cost = overhead["microseconds"]
    imports = overhead["import"]["orchestrator"]
    expected = [
        f"{cost['route, round-robin, 3 providers'] - cost['bare await']:.1f} µs",
        f"{cost['route, least-latency, 3 providers'] - cost['bare await']:.1f} µs",
        f"{cost['route, round-robin, 100 providers'] - cost['bare await']:.1f} µs",
        f"{cost['per piece, stream'] - cost['per piece, the provider alone']:.1f} µs",
        f"{imports['seconds']:.2f} s, {imports['rss_mb']:.0f} MB",
        *(f"{strategies['black hole'][name]['errors_percent']:.2f} %" for name in ("round-robin", "least-latency")),
        *(f"{strategies['slow provider'][name]['p99']:.1f} s" for name in ("round-robin", "least-latency")),
        f"| {bad('orchestrator')} of 122 (LiteLLM Router {bad('litellm')}, LangChain {bad('langchain')}) |",
    ]
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.endswith(".json` |")]
    assert len(rows) == len(expected)
    assert [row for row, figure in zip(rows, expected, strict=True) if figure not in row] == []


def test_what_a_call_takes_more_or_less_than_when_it_was_timed_is_what_was_counted():
    counted = results("instructions.json")["instructions"]
    then = counted[next(revision for revision in counted if revision != "now")]
    readme = (ROOT / "README.md").read_text()
    for strategy in ("round-robin", "least-latency"):
        more = 100 * (counted["now"][strategy] / then[strategy] - 1)
        assert f"{abs(more):.1f} % {'more' if more > 0 else 'fewer'}" in readme


def test_the_table_of_the_outage_says_what_was_measured():
    told = results("outage.json")
    patient, hasty = told["total outage, callers wait 120 s"], told["total outage, callers wait 2 s"]
    late, soon = (outage["99_percent_answered_from"] for outage in (patient, hasty))
    holes = told["black hole"].values()
    expected = [
        f"| {patient['wire_calls_per_request']:.4f} |",
        f"| {hasty['wire_calls_per_request']:.4f} |",
        f"grown to {patient['longest_break']:.1f} s | {patient['first_answer_after']:.2f} s |",
        f"| {late:.0f} s after the end, with a thousand waiting; {soon:.0f} s without |",
        f"| {max(hole['errors_percent'] for hole in holes):.3f} % |",
        f"| at most {max(hole['calls_to_the_black_hole_percent'] for hole in holes):.3f} % |",
        f"tasks left | {sum(told['cancellation storm']['left'].values())} |",
    ]
    page = (ROOT / "docs" / "faults.md").read_text().partition("| What happens | Figure |")[2].splitlines()[2:9]
    assert [figure for row, figure in zip(page, expected, strict=True) if figure not in row] == []
