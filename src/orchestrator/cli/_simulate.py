"""``orchestrator simulate``: strategies and policies compared on scenario files."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from orchestrator.cli._render import harmless
from orchestrator.router import Router
from orchestrator.simulation import Run, Scenario, ScenarioError, simulate
from orchestrator.simulation.assertion import Assertion
from orchestrator.simulation.report import as_json, columns, document, page, rows
from orchestrator.simulation.trace import traces_of

__all__ = ["DEFAULT_STRATEGY", "Outputs", "Plan", "Variant", "broken", "planned", "play", "run", "tables"]

DEFAULT_STRATEGY: str = signature(Router).parameters["strategy"].default

Changes = dict[str, Any]
Played = list[tuple[Scenario, list[Run]]]
_SHARES = 12  # providers whose shares are listed
_WIDE = 200  # columns, where nobody has told how many there are


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario as one column of policies has it; ``label`` is empty for the file as it is."""

    scenario: Scenario
    label: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played: every variant of every file, under every strategy."""

    scenarios: Sequence[Sequence[Variant]]
    strategies: Sequence[str]
    seed: int | None = None
    assertions: Sequence[Assertion] = ()

    @property
    def runs(self) -> int:
        """How many there will be."""
        return sum(len(variants) for variants in self.scenarios) * len(self.strategies)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results go: tables to ``out``, progress and broken assertions to ``notes``, files if wanted."""

    out: Console
    notes: Console
    html: Path | None = None
    json: Path | None = None
    moves: bool = False


def run(plan: Plan, outputs: Outputs) -> bool:
    """Play, print and write; False where an assertion is not kept. Raises ``OSError`` for what cannot be written."""
    with _progress(outputs.notes, plan.runs, moves=outputs.moves) as told:
        played = play(plan, told, exact_breakers=outputs.html is not None or outputs.json is not None)
    shown = document(played)
    if not outputs.out.is_terminal:
        outputs.out.width = _WIDE
    for part in tables(shown):
        outputs.out.print(part)
    if outputs.json is not None:
        outputs.json.write_text(as_json(shown), encoding="utf-8")
    if outputs.html is not None:
        outputs.html.write_text(page(shown), encoding="utf-8")
    lines = broken(plan, played)
    for line in lines:
        outputs.notes.print(Text(harmless(line), "red"))
    return not lines


def planned(
    files: Iterable[Path], strategies: Sequence[str], *, seed: int | None, assertions: Iterable[str],
    changes: Sequence[str], comparisons: Sequence[str],
) -> Plan:
    """Everything read, before anything is played; raises ``ScenarioError`` with a line per fault, or ``ValueError``."""
    everywhere = _changes(changes)
    others = [(text, everywhere | _changes(text.split(";"))) for text in dict.fromkeys(comparisons)]
    scenarios = []
    for file in files:
        variants = [Variant(_read(file, everywhere))]
        variants += [Variant(_read(file, changed), text.strip()) for text, changed in others]
        scenarios.append(variants)
    names = [variants[0].scenario.name for variants in scenarios]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScenarioError(f"two of the scenarios are named {twice[0]!r}")
    return Plan(scenarios, tuple(dict.fromkeys(strategies)), seed, [Assertion.parse(text) for text in assertions])


def _read(file: Path, changes: Changes) -> Scenario:
    try:
        scenario = Scenario.load(file, changes=changes)
        traces_of(scenario)  # a fault in it is told now, not in the middle of the runs
    except OSError as error:
        other = f": {error.filename}" if error.filename != str(file) else ""  # the trace it names
        raise ScenarioError(f"{file.name or file}: {error.strerror}{other}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{file.name}: not UTF-8: {error.reason} at byte {error.start}") from error
    return scenario


def _changes(texts: Iterable[str]) -> Changes:
    """``a.b=1`` as ``{"a.b": 1}``: the value is TOML, or else a text as it stands."""
    found: Changes = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise ValueError(f"{text.strip()!r} is no change; write NAME=VALUE, such as router.retry.max_retries=0")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


def play(plan: Plan, told: Callable[[str, float], None], *, exact_breakers: bool = False) -> Played:
    """All runs, one after the other; ``told`` gets the name of the run and how many are over, with its share."""
    played: Played = []
    over = 0
    for variants in plan.scenarios:
        runs = []
        for variant in variants:
            for strategy in plan.strategies:
                name = f"{strategy}, {variant.label}" if variant.label else strategy
                runs.append(simulate(
                    variant.scenario, strategy, seed=plan.seed, name=name, exact_breakers=exact_breakers,
                    progress=_counting(told, f"{variant.scenario.name}: {name}", over),
                ))
                over += 1
        played.append((variants[0].scenario, runs))
    return played


def _counting(told: Callable[[str, float], None], name: str, over: int) -> Callable[[float], None]:
    return lambda share: told(name, over + share)


@contextmanager
def _progress(console: Console, runs: int, *, moves: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, nothing anywhere else; it is gone when the runs are over."""
    if not moves:
        yield lambda _name, _over: None
        return
    shown = TextColumn("{task.description}", markup=False)
    with Progress(BarColumn(30), TimeRemainingColumn(), shown, console=console, transient=True) as progress:
        task = progress.add_task("", total=runs)
        yield lambda name, over: progress.update(task, completed=over, description=harmless(name))


def tables(shown: dict[str, Any]) -> Iterator[Table | Text]:
    """Per scenario a table, then who has answered."""
    for name, scenario in shown["scenarios"].items():
        about = scenario["description"]
        yield Text.assemble((harmless(name), "bold"), harmless(f": {about}" if about else ""))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("strategy", overflow="fold")
        for column in columns(scenario):
            table.add_column(f"{column.group}\n{column.title}".strip(), justify="right")
        for strategy, *texts in rows(scenario):
            table.add_row(Text(harmless(strategy), "bold"), *texts)
        yield table
        for strategy, cell in scenario["cells"].items():
            yield Text(f"  answered under {harmless(strategy)}: {_shares(cell['share'])}", "dim")
        yield Text()


def _shares(share: dict[str, float]) -> str:
    shown = [f"{harmless(name)} {value:.0f} %" for name, value in list(share.items())[:_SHARES]]
    more = len(share) - _SHARES
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def broken(plan: Plan, played: Played) -> list[str]:
    """A line per assertion that a run has not kept."""
    lines = []
    for scenario, runs in played:
        asserted = [*map(Assertion.parse, scenario.assertions), *plan.assertions]
        for run in runs:
            figures = run.summary()
            for assertion in dict.fromkeys(asserted):
                instead = assertion.broken_by(figures)
                if instead is not None:
                    lines.append(f"{run.scenario}, {run.strategy}: {assertion.text}: not kept, it is {instead}")
    return lines
