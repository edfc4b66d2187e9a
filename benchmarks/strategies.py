"""Every strategy in every scenario, beside models of rivals and what was possible at all.

    python benchmarks/strategies.py [--quick] [--scenario NAME ...] [--strategy NAME ...] [--write]
                                    [--html PAGE]

Same seed and luck for all; two processes; progress on stderr. ``--write`` puts everything into
``benchmarks/results/strategies.json`` (with ``--seeds 101 102``: ``strategies_seeds.json``), ``--out`` elsewhere; two
runs give the same bytes, since nothing in it is a wall-clock. ``--quick`` shortens everything six times: a look, not a
result. ``linkerd`` is always shortened four times (15 s at 1000 requests a second).

The file (schema 1), keys sorted, one line per cell; seconds, USD, percent 0 to 100, null for no value::

    schema, command, python, quick, seed (null: each scenario's own)
    quantiles     [...]                       of which the CDFs are made
    strategies    {name: {kind: own | rival | oracle, real: bool, about: str, order: int}}
                                              real: false for a model of somebody else's rules
    scenarios     {name: {file, description, seed, duration_s, warm_up_s, slo_s, providers: [...],
                          episodes: [{provider, kind, from_s, until_s}], step_s, best, cells: {strategy: cell}}}
      step_s      width of a bin of the timelines
      best        {own | rival: {errors | p99 | first_token_p99 | cost: [strategy, value] | null}}
                  the least; p99 of all requests (``of_all``), cost only among strategies (own and rivals alike) whose
                  failures are at most 0.1 points above the least of all
    mean_regret   {strategy: {oracle | state | average: {first_token_p99, latency_p99, cost}}}  over the scenarios; null
                  where it is infinite in one of them

    cell: requests, answered, failed, in_time, errors: {class: percent}     of the requests begun after the warm-up
          latency, first_token: {p50, p95, p99}     of answers
          of_all: {latency, first_token}     the p99 of all requests, a failed one taking for ever: who gives up on
                  the slow ones must not look fast for it. null where more than one in a hundred failed
          calls, attempts_per_request, cost_per_1000, share: {provider: percent of the answers}
          regret: {oracle | state | average: {first_token_p50, ..p95, ..p99, latency_p50, ..p95, ..p99, cost}}
                  figure / (the same of the oracle with that objective) - 1: 0.15 is 15 % above; a p99 is that of all.
                  ``oracle`` is clairvoyant, ``state`` knows the state of every provider, but not the luck of a call,
                  ``average`` (only of cost) not how long the answer will be either: see
                  orchestrator.simulation.oracle. Below 0 where requests compete for places

Beside the strategies as they are by default stand some with arguments or router policies, see ``SETUPS``.
          latency_cdf, first_token_cdf: [...]       one per quantile, [] without answers
          timeline: {answered: [per bin], failed: [[bin, count], ...], p95: [60 equal parts, of answers]}
                  by when a request began; the whole run
          breakers: [[at, provider, old, new], ...] sampled 200 times a run; of litellm models: cooldowns
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from math import ceil, inf, isinf, isnan
from pathlib import Path
from typing import Any

from rivals.strategies import RIVALS

from orchestrator import HedgePolicy, Router
from orchestrator.simulation import MakeRouter, RouterLike, Run, Scenario, World, simulate
from orchestrator.simulation.oracle import OBJECTIVES, oracle, regret
from orchestrator.simulation.report import p95_over, page
from orchestrator.simulation.summary import quantile
from orchestrator.strategies import LowestCost, RoutingStrategy
from orchestrator.strategies.registry import BUILT_IN

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "strategies.json"
SEEDS = HERE / "results" / "strategies_seeds.json"
SHORTENED = {"linkerd": 4.0}
QUICK = 6.0
BINS = 300  # of a timeline, about
QUANTILES = [*(n / 40 for n in range(40)), 0.99, 0.995, 0.999, 1.0]
NEAR = 0.1  # points of failures within which a latency may be compared
ORACLES = {
    f"{prefix} {objective}": (objective, foresight)
    for prefix, foresight in (("oracle", "luck"), ("state oracle", "state")) for objective in OBJECTIVES
}
ORACLES["average oracle cost"] = ("cost", "average")
# Name: what it is, the strategy for a scenario, and the router's policies where the scenario sets none.
SETUPS: dict[str, tuple[str, Callable[[Scenario], str | RoutingStrategy], dict[str, Any]]] = {
    "least-latency, hedged": (
        "HedgePolicy(): who is late is raced by the next provider", lambda _: "least-latency", {"hedge": HedgePolicy()},
    ),
    "lowest-cost in slo": (
        "LowestCost(seconds=...) with the scenario's slo_s: the bound that the oracles of cost keep",
        lambda scenario: LowestCost(seconds=scenario.slo_s), {},
    ),
}
KINDS = {
    **dict.fromkeys((*BUILT_IN, *SETUPS), "own"), **dict.fromkeys(RIVALS, "rival"), **dict.fromkeys(ORACLES, "oracle"),
}


def strategies() -> dict[str, dict[str, Any]]:
    knows = {
        "luck": "greedy and clairvoyant", "state": "knows every provider's state, not a call's luck",
        "average": "knows every provider's state, neither a call's luck nor its answer's length",
    }
    told = dict.fromkeys(BUILT_IN, "this library") | {
        name: f"this library, {about}" for name, (about, *_) in SETUPS.items()
    } | {name: about for name, (_, about) in RIVALS.items()} | {
        name: f"least {objective}, {knows[foresight]}" for name, (objective, foresight) in ORACLES.items()
    }
    return {
        name: {"kind": kind, "real": kind == "own", "about": told[name], "order": order}
        for order, (name, kind) in enumerate(KINDS.items())
    }


def shortened(scenario: Scenario, factor: float) -> Scenario:
    """The same in a shorter time, everything that happens at a time included."""
    data = scenario.model_dump()
    for name in ("duration_s", "warm_up_s"):
        data[name] /= factor
    for provider in data["providers"]:
        for episode in provider["episodes"]:
            scale(episode, factor, "from_s", "until_s", "period_s")
        scale(provider["diurnal"] or {}, factor, "period_s", "peak_at_s")
    for burst in data["traffic"]["bursts"]:
        scale(burst, factor, "from_s", "until_s", "every_s")
    return Scenario.model_validate(data)


def scale(table: dict[str, Any], factor: float, *names: str) -> None:
    for name in names:
        if table.get(name) is not None:
            table[name] /= factor


def loaded(path: Path, *, quick: bool) -> Scenario:
    scenario = Scenario.load(path)
    factor = SHORTENED.get(path.stem, 1.0) * (QUICK if quick else 1.0)
    return scenario if factor == 1.0 else shortened(scenario, factor)


def work(scenario: Scenario) -> float:
    """About how many requests it has."""
    sessions = scenario.traffic.sessions
    rate = scenario.traffic.rate_rps + (sessions.number / sessions.think_s if sessions is not None else 0.0)
    return scenario.duration_s * rate


def played(path: Path, strategy: str, seed: int | None, quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """In a process of its own: what the scenario is, and the cell."""
    scenario = loaded(path, quick=quick)
    if strategy in RIVALS:
        run = simulate(scenario, router=RIVALS[strategy][0], seed=seed, name=strategy)
    elif strategy in ORACLES:
        run = simulate(scenario, router=oracle(*ORACLES[strategy]), seed=seed, name=strategy)
    elif strategy in SETUPS:
        _, chosen, policies = SETUPS[strategy]
        run = simulate(scenario, chosen(scenario), seed=seed, name=strategy, router=with_policies(policies))
    else:
        run = simulate(scenario, strategy, seed=seed)
    return described(run, scenario, path), cell(run)


def with_policies(policies: dict[str, Any]) -> MakeRouter:
    """The real router; what the scenario says of a policy holds."""
    def make(world: World, strategy: Any, *, listeners: Iterable[Any] = ()) -> RouterLike:
        options = {**policies, **world.scenario.router.options()}
        return Router(strategy, world.providers, listeners=listeners, seed=world.seed, **options)
    return make


def described(run: Run, scenario: Scenario, path: Path) -> dict[str, Any]:
    return {
        "file": path.name, "description": scenario.description, "seed": run.seed, "duration_s": run.duration_s,
        "warm_up_s": run.warm_up_s, "slo_s": run.slo_s, "providers": list(run.providers), "step_s": step(run),
        "episodes": [
            {"provider": span.provider, "kind": span.kind, "from_s": span.from_s, "until_s": span.until_s}
            for span in run.timeline.episodes
        ],
    }


def step(run: Run) -> float:
    """Whole seconds, unless the run is short."""
    return float(ceil(run.duration_s / BINS)) if run.duration_s > BINS / 2 else run.duration_s / BINS


def cell(run: Run) -> dict[str, Any]:
    figures = run.summary().as_dict()
    for known in ("scenario", "strategy", "seed"):
        del figures[known]
    rows = run.requests
    answers = [n for n, at in enumerate(rows.begun) if at >= run.warm_up_s and rows.outcome[n] == 0]
    return {
        **figures, "failed": round(100 - figures["answered"], 6),
        "of_all": {
            "latency": of_all((rows.latency[n] for n in answers), figures["requests"]),
            "first_token": of_all((rows.first_token[n] for n in answers), figures["requests"]),
        },
        "latency_cdf": cdf(rows.latency[n] for n in answers),
        "first_token_cdf": cdf(rows.first_token[n] for n in answers),
        "timeline": timeline(run),
        "breakers": [[round(c.at, 3), c.provider, c.old, c.new] for c in run.timeline.breakers],
    }


def of_all(values: Iterable[float], requests: int) -> float | None:
    """The p99 of so many requests, of which these were answered; nan, of one whose time nobody knows, is left out."""
    known = list(values)
    ordered = sorted(value for value in known if not isnan(value))
    found = quantile([*ordered, *[inf] * (requests - len(known))], 0.99)
    return None if found is None or isinf(found) else found


def cdf(values: Iterable[float]) -> list[float | None]:
    ordered = sorted(value for value in values if not isnan(value))
    return [round(quantile(ordered, q), 4) for q in QUANTILES] if ordered else []


def timeline(run: Run) -> dict[str, Any]:
    rows, width = run.requests, step(run)
    last = ceil(run.duration_s / width) - 1
    answered, failed = [0] * (last + 1), [0] * (last + 1)
    for at, outcome in zip(rows.begun, rows.outcome, strict=True):
        (failed if outcome else answered)[min(last, int(at / width))] += 1
    return {
        "answered": answered, "failed": [[n, count] for n, count in enumerate(failed) if count],
        "p95": p95_over(run, 3),
    }


FIGURES = {
    **{f"{what}_{p}": (what, lambda c, what=what, p=p: c[what][p])
       for what in ("first_token", "latency") for p in ("p50", "p95")},
    **{f"{what}_p99": (what, lambda c, what=what: c["of_all"][what]) for what in ("first_token", "latency")},
    "cost": ("cost", lambda c: c["cost_per_1000"]),
}


AGAINST = {"oracle": "oracle", "state": "state oracle", "average": "average oracle"}


def add_regrets(cells: dict[str, dict[str, Any]]) -> None:
    for each in cells.values():
        each["regret"] = {
            told: {
                name: regret(get(each), get(cells[best]) if (best := f"{prefix} {objective}") in cells else None)
                for name, (objective, get) in FIGURES.items()
            } for told, prefix in AGAINST.items()
        }


def best(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The least of each kind, by each figure."""
    real = {name: each for name, each in cells.items() if KINDS[name] != "oracle"}
    least = min((each["failed"] for each in real.values()), default=0.0)
    near = {name: each for name, each in real.items() if each["failed"] <= least + NEAR}
    return {kind: {
        "errors": winner(real, kind, lambda c: c["failed"]),
        "p99": winner(real, kind, FIGURES["latency_p99"][1]),
        "first_token_p99": winner(real, kind, FIGURES["first_token_p99"][1]),
        "cost": winner(near, kind, FIGURES["cost"][1]),
    } for kind in ("own", "rival")}


def winner(cells: dict[str, dict[str, Any]], kind: str, get: Any) -> list[Any] | None:
    found = [(get(each), name) for name, each in cells.items() if KINDS[name] == kind and get(each) is not None]
    return list(reversed(min(found))) if found else None


def mean_regret(scenarios: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in KINDS:
        cells = [each["cells"][name] for each in scenarios.values() if name in each["cells"]]
        for against in AGAINST:
            for figure in ("first_token_p99", "latency_p99", "cost"):
                values = [v for c in cells if (v := c["regret"][against][figure]) is not None]
                endless = any(
                    figure == f"{what}_p99" and p99 is None for c in cells for what, p99 in c["of_all"].items()
                )
                mean = round(sum(values) / len(values), 6) if values and not endless else None
                found.setdefault(name, {}).setdefault(against, {})[figure] = mean
    return found


def run_all(jobs: list[tuple[Path, str]], seed: int | None, *, quick: bool, processes: int) -> dict[str, Any]:
    scenarios: dict[str, Any] = {}
    asked_for = {path: loaded(path, quick=quick) for path, _ in jobs}
    names = {path: scenario.name for path, scenario in asked_for.items()}
    jobs = sorted(jobs, key=lambda job: -work(asked_for[job[0]]))  # or one process would wait for the other's last
    with ProcessPoolExecutor(processes) as pool:
        asked = {pool.submit(played, path, name, seed, quick): (path, name) for path, name in jobs}
        for done, future in enumerate(as_completed(asked), 1):
            path, name = asked[future]
            try:
                told, figures = future.result()
            except Exception as error:
                error.add_note(f"in {path.name} under {name}")
                raise
            scenario = scenarios.setdefault(names[path], {**told, "cells": {}})
            scenario["cells"][name] = figures
            print(f"\r{done}/{len(jobs)} {path.stem} {name}\033[K", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    scenarios = dict(sorted(scenarios.items()))  # in whatever order they came: sums of floats depend on it
    for scenario in scenarios.values():
        add_regrets(scenario["cells"])
        scenario["best"] = best(scenario["cells"])
    return scenarios


def written(value: Any, depth: int = 4, indent: str = "") -> str:
    """JSON with a line for each cell."""
    if not isinstance(value, dict) or not depth or not value:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    inner = indent + " "
    lines = (f"{inner}{json.dumps(key)}: {written(value[key], depth - 1, inner)}" for key in sorted(value))
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def compared(scenarios: dict[str, Any]) -> str:
    """Own against rivals, one line per scenario and figure."""
    lines = [f"{'scenario':20} {'figure':16} {'best own':34} {'best rival':40}"]
    for name in sorted(scenarios):
        for figure in ("errors", "p99", "first_token_p99", "cost"):
            own, rival = (scenarios[name]["best"][kind][figure] for kind in ("own", "rival"))
            mark = "" if own is None or rival is None or own[1] <= rival[1] else "  <- rival"
            lines.append(f"{name:20} {figure:16} {shown(own):34} {shown(rival):40}{mark}")
    return "\n".join(lines)


def shown(found: list[Any] | None) -> str:
    return "-" if found is None else f"{found[1]:.3f} {found[0]}"


def of_seeds(paths: list[Path], seeds: list[int], processes: int) -> dict[str, Any]:
    """The default's regret with other luck: how much of a figure is the seed's."""
    default = str(inspect.signature(Router).parameters["strategy"].default)
    names, found = [default, *(f"state oracle {objective}" for objective in ("first_token", "latency"))], {}
    for seed in seeds:
        scenarios = run_all([(path, name) for path in paths for name in names], seed, quick=False, processes=processes)
        figures = {name: each["cells"][default]["regret"]["state"] for name, each in scenarios.items()}
        found[str(seed)] = {
            "mean": mean_regret(scenarios)[default]["state"],
            "first_token_p99": {name: each["first_token_p99"] for name, each in figures.items()},
        }
    command = f"python benchmarks/strategies.py --seeds {' '.join(map(str, seeds))} --write"
    return {"command": command, "python": platform.python_version(), "strategy": default, "seeds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", help="the stem of a file; may be repeated")
    parser.add_argument("--strategy", action="append", choices=list(KINDS), metavar="NAME", help="may be repeated")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", help="only the default, beside the oracles that know the state")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--html", type=Path, help="a page with charts")
    options = parser.parse_args()
    paths = sorted((HERE / "scenarios").glob("*.toml"))
    if options.scenario:
        unknown = set(options.scenario) - {path.stem for path in paths}
        if unknown:
            parser.error(f"no scenario {min(unknown)!r}. Known: {', '.join(path.stem for path in paths)}")
        paths = [path for path in paths if path.stem in options.scenario]
    if options.seeds:
        found = of_seeds(paths, options.seeds, options.processes)
        print(json.dumps(found, indent=1))
        if options.write or options.out:
            (options.out or SEEDS).write_text(json.dumps(found, indent=1) + "\n")
        return
    jobs = [(path, name) for path in paths for name in (options.strategy or KINDS)]
    scenarios = run_all(jobs, options.seed, quick=options.quick, processes=options.processes)
    told = strategies()
    chosen = [
        *(f"--scenario {name}" for name in sorted(options.scenario or ())),
        *(f'--strategy "{name}"' for name in options.strategy or ()), *(["--quick"] if options.quick else []),
        *([f"--seed {options.seed}"] if options.seed is not None else []), "--write",
    ]
    document = {
        "schema": 1, "command": " ".join(["python benchmarks/strategies.py", *chosen]),
        "python": platform.python_version(), "quick": options.quick, "seed": options.seed, "quantiles": QUANTILES,
        "scenarios": scenarios, "strategies": {name: told[name] for name in options.strategy or KINDS},
        "mean_regret": mean_regret(scenarios),
    }
    print(compared(scenarios))
    if options.write or options.out:
        (options.out or RESULTS).write_text(written(document) + "\n")
    if options.html:
        options.html.write_text(page(document, title="Strategies compared"), encoding="utf-8")


if __name__ == "__main__":
    main()
