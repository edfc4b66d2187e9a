"""The tables of ``docs/speed.md``, made of ``benchmarks/results/speed*.json`` and ``benchmarks/speed_budget.json``.

    python benchmarks/speed_page.py      # shows again what was stored: after a change of how it is shown
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speed_goals import GOALS, Goal
from speed_server import PACE

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "speed.md"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = "3.11"  # the version of speed.json; another's is in its name
REACHED = "<!-- goals: written by benchmarks/speed.py --write -->", "<!-- end of goals -->"
BUDGET = "<!-- budget: written by benchmarks/speed_budget.py --update -->", "<!-- end of budget -->"

NAMES = {
    "orchestrator": "**resilient-orchestrator**", "orchestrator-fast": "**the same, extra `fast`**",
    "litellm": "LiteLLM Router", "langchain": "LangChain `with_fallbacks`",
    "pydantic-ai": "pydantic-ai `FallbackModel`", "openai": "openai SDK",
    "tensorzero": "TensorZero, embedded", "httpx": "bare httpx", "aiohttp": "bare aiohttp",
    "pyreqwest": "bare pyreqwest", "socket": "prepared bytes (the server)",
}
LOOPS = {"": "", "+uvloop": ", on uvloop"}
NAMES = {subject + loop: name + told for subject, name in NAMES.items() for loop, told in LOOPS.items()}
COLUMNS = {"instant": "Call in process, µs", "http": "HTTP, one caller, µs", "http64": "HTTP, 64 callers, calls/s",
           "piece": "A piece, µs", "import": "Import, s"}


def header(titles: Iterable[str]) -> list[str]:
    titles = list(titles)
    return [row_of(titles), "|" + "---|" * len(titles)]


def row_of(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def shown(value: float) -> str:
    """Three figures, no more."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f}"


def cell(column: str, row: dict[str, float] | None, kind: str) -> str:
    """A figure and how many times ours it is."""
    if row is None or kind not in row:
        return "–"
    ratio = row.get(f"{kind}_ratio")
    if column == "http64":  # so many in a second; the ratio is turned over with it
        value, ratio = 1 / row[kind], None if ratio is None else 1 / ratio
    else:
        value = row[kind] * (1 if column in ("import", "start") else 1e6)
    return shown(value) + (f" (×{shown(ratio)})" if ratio is not None else "")


def main_table(results: dict[str, Any], kind: str) -> list[str]:
    table, left_out = results["table"], results.get("left_out", {})
    subjects = [name for name in NAMES if name in left_out or any(name in table[column] for column in COLUMNS)]
    lines = header(["", *COLUMNS.values()])
    return lines + [
        row_of([NAMES[s], *(cell(column, table[column].get(s), kind) for column in COLUMNS)]) for s in subjects
    ]


def start_table(results: dict[str, Any]) -> list[str]:
    imports, starts = results["table"]["import"], results["table"].get("start", {})
    lines = header(["", "Import, s", "To the first answer, s", "To the first answer, s of the processor",
                    "Memory after the import, MB"])
    for name in (name for name in NAMES if name in starts):
        seconds = (cell("start", starts[name], kind) for kind in ("wall", "cpu"))
        lines.append(row_of([NAMES[name], shown(imports[name]["wall"]), *seconds, f"{imports[name]['rss_mb']:.0f}"]))
    return lines


def growth_table(rows: dict[str, dict[str, dict[str, float]]], names: dict[str, str], what: str) -> list[str]:
    """µs of the processor by how many there are, and how many times the last is the first."""
    rows = {name: row for name, row in rows.items() if row}
    counts = list(dict.fromkeys(count for row in rows.values() for count in row))
    lines = header(["", *(f"{count} {what if count != '1' else what.rstrip('s')}" for count in counts), "last : first"])
    for name, row in rows.items():
        values = [row[count]["cpu"] * 1e6 if count in row else None for count in counts]
        known = [value for value in values if value is not None]
        cells = ("–" if value is None else shown(value) for value in values)
        lines.append(row_of([names.get(name, f"`{name}`"), *cells, shown(known[-1] / known[0])]))
    return lines


def held_table(results: dict[str, Any]) -> list[str]:
    lines = header(["", "KB per idle stream", "KB per active stream", "Longest wait for a piece, above the pace, ms",
                    "Processor, % of one core"])
    for subject, row in results["held"].items():
        idle, active = row.get("idle"), row.get("active")
        told = ["–", "–", "–"]
        if active:
            late, busy = max(0.0, active["gap"] - PACE), active["cpu"] / active["wall"]
            told = [shown(active["kilobytes"]), f"{1e3 * late:.0f}", f"{100 * busy:.0f}"]
        lines.append(row_of([NAMES[subject], shown(idle["kilobytes"]) if idle else "–", *told]))
    return lines


def allocation_table(results: dict[str, Any]) -> list[str]:
    return header(["", "Bytes in use at most during a call", "Blocks kept after a call"]) + [
        row_of([NAMES[subject], f"{row['peak_bytes']:.0f}", f"{row['blocks_kept']:.3f}"])
        for subject, row in results["allocations"].items()
    ]


def tables(results: dict[str, Any]) -> str:
    """The part of the page that is made of the results of one version of Python."""
    machine, callers = results["machine"], results["callers"]
    measured_by = f"`{results['command']}`, Python {results['python']}, {results['rounds']} rounds"
    lines = [f"{measured_by}, {machine['cpus']} cores, 5 000 000 additions in {machine['additions']:.2f} s."]
    lines += [f"{NAMES[subject]} is left out: {reason}." for subject, reason in results.get("left_out", {}).items()]
    lines += [
        "", "### Seconds of the clock", "", *main_table(results, "wall"),
        "", "### Seconds of the processor", "", *main_table(results, "cpu"),
        "", "### From start to first answer", "", *start_table(results),
        "", "### By the number of callers: µs of the processor per call over HTTP", "",
        *growth_table({s: callers["http"][s] for s in NAMES if s in callers["http"]}, NAMES, "callers"),
        "", "In the process, no HTTP:", "", *growth_table(callers["instant"], NAMES, "callers"),
        "", "### By the number of providers: µs of the processor per call in the process", "",
        *growth_table(results["providers"], {}, "providers"),
        "", "### A thousand streams at once", "", *held_table(results),
        "", "### Allocation, of a call in the process", "", *allocation_table(results),
        "", f"Versions: {versions(results['versions'])}.",
    ]
    return "\n".join(lines)


def versions(found: dict[str, dict[str, str]]) -> str:
    rivals = {subject: packages for subject, packages in found.items() if not subject.startswith("orchestrator")}
    told = [
        f"{NAMES[subject]} ({', '.join(f'{name} {version}' for name, version in packages.items())})"
        for subject, packages in rivals.items() if packages and "+" not in subject
    ]
    loops = {f"uvloop {packages['uvloop']}" for packages in found.values() if "uvloop" in packages}
    return ", ".join([*told, *sorted(loops)])


def goal_table(measured: dict[str, dict[str, Any]]) -> str:
    """A row per goal; what each version of Python reached, by the clock and by the processor."""
    kinds = {"wall": "clock", "cpu": "processor"}
    lines = header(["", "Goal", *(f"{version}, {told}" for version in measured for told in kinds.values())])
    for goal in GOALS:
        cells = (judged(goal, goal.figure(results, kind)) for results in measured.values() for kind in kinds)
        lines.append(row_of([goal.title, f"{'≥' if goal.at_least else '≤'} {shown(goal.limit)}", *cells]))
    return "\n".join(lines)


def judged(goal: Goal, figure: float | None) -> str:
    return "–" if figure is None else f"{shown(figure)} {'reached' if goal.reached(figure) else '**missed**'}"


def budget_table(budget: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row per figure, the versions of Python side by side."""
    versions = sorted(budget, key=lambda version: tuple(map(int, version.split("."))))
    kinds = {"calls": "Functions called", "instructions": "Instructions", "blocks": "Blocks of memory"}
    lines = header(["On Python " + " / ".join(versions), *kinds.values()])
    for name in dict.fromkeys(name for figures in budget.values() for name in figures):
        told = ([str(budget[v][name][kind]) for v in versions if kind in budget[v].get(name, {})] for kind in kinds)
        lines.append(row_of([name, *(" / ".join(values) or "–" for values in told)]))
    return "\n".join(lines)


def put(marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks of the page."""
    before, found, rest = PAGE.read_text().partition(marks[0])
    if not found:
        raise ValueError(f"{PAGE.name} has no {marks[0]}")
    PAGE.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.partition(marks[1])[2]}")


def stored() -> dict[str, dict[str, Any]]:
    """What was measured, by the version of Python, ``BASE`` first."""
    found = (json.loads(path.read_text()) for path in RESULTS.glob("speed*.json"))
    by_version = {results["python"].rpartition(".")[0]: results for results in found}
    return dict(sorted(by_version.items(), key=lambda item: (item[0] != BASE, item[0])))


def show() -> None:
    """Put all that is stored on the page."""
    found = stored()
    put(REACHED, goal_table(found))
    for version, results in found.items():
        marks = f"<!-- tables of {version}: written by benchmarks/speed.py --write -->", f"<!-- end of {version} -->"
        put(marks, tables(results))


def write(results: dict[str, Any]) -> None:
    """Store the results of this version of Python, and show them on the page."""
    name = "speed.json" if VERSION == BASE else f"speed-{VERSION}.json"
    (RESULTS / name).write_text(json.dumps(results, indent=1) + "\n")
    show()


if __name__ == "__main__":
    show()
