"""Runs of several strategies on several scenarios as one document: for a table, for JSON, for a page of HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.simulation._page import page
from orchestrator.simulation._table import Column, columns, rows
from orchestrator.simulation.run import ANSWERED, Run
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.summary import quantile

__all__ = ["QUANTILES", "Column", "as_json", "cell", "columns", "document", "p95_over", "page", "rows"]

QUANTILES = (*(round(n / 40, 3) for n in range(40)), 0.99, 0.995, 0.999, 1.0)
BINS = 60  # of a timeline
SCHEMA = 1
_DIGITS = 6


def document(played: Iterable[tuple[Scenario, Sequence[Run]]]) -> dict[str, Any]:
    """Plain values, the same for the same runs. All runs of a scenario have names (``Run.strategy``) of their own.

    ``strategies``: what was run. ``scenarios``: by name, what each was, and in ``cells`` by strategy what it brought,
    see :func:`cell`. Times are seconds, shares percent, cost USD. Raises ``ValueError`` for a name given twice.
    """
    scenarios: dict[str, Any] = {}
    strategies: dict[str, Any] = {}
    for scenario, runs in played:
        if scenario.name in scenarios:
            raise ValueError(f"two scenarios are named {scenario.name!r}")
        scenarios[scenario.name] = _scenario(scenario, runs)
        for run in runs:
            strategies.setdefault(run.strategy, {"kind": "own", "real": True, "about": "", "order": len(strategies)})
    return {"schema": SCHEMA, "quantiles": list(QUANTILES), "strategies": strategies, "scenarios": scenarios}


def as_json(document: Mapping[str, Any]) -> str:
    """Sorted; the same document gives the same bytes."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _scenario(scenario: Scenario, runs: Sequence[Run]) -> dict[str, Any]:
    names = [run.strategy for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two runs of {scenario.name!r} are named {twice[0]!r}")
    providers = scenario.each_provider()
    return {
        "description": scenario.description,
        "seed": runs[0].seed if runs else scenario.seed,
        "duration_s": scenario.duration_s, "warm_up_s": scenario.warm_up_s, "slo_s": scenario.slo_s,
        "providers": [provider.name for provider in providers],
        "episodes": [
            {"provider": provider.name, "kind": episode.kind, "from_s": episode.from_s, "until_s": episode.until_s}
            for provider in providers for episode in provider.episodes
        ],
        "step_s": scenario.duration_s / BINS,
        "cells": {run.strategy: cell(run) for run in runs},
    }


def cell(run: Run) -> dict[str, Any]:
    """The figures of ``run.summary()``, and what the charts draw.

    ``latency_cdf``, ``first_token_cdf``: of the answers after the warm-up, at ``QUANTILES``. ``timeline``: by the time
    a request began, warm-up included, in ``BINS`` equal parts: ``answered``, ``failed`` (pairs of part and number)
    and ``p95`` of the answers. ``breakers``: at, provider, old state, new state.
    """
    told = run.summary()
    figures = told.as_dict()
    for name in ("scenario", "strategy", "seed"):
        del figures[name]
    counted = run.warm_up_s
    return {
        **figures,
        "failed": round(sum(told.errors.values()), _DIGITS),
        "latency_cdf": _quantiles(run, run.requests.latency, counted),
        "first_token_cdf": _quantiles(run, run.requests.first_token, counted),
        "timeline": _timeline(run),
        "breakers": [[round(change.at, _DIGITS), change.provider, change.old, change.new]
                     for change in run.timeline.breakers],
    }


def _quantiles(run: Run, values: Sequence[float], since: float) -> list[float | None]:
    rows = run.requests
    chosen = sorted(
        value for value, at, outcome in zip(values, rows.begun, rows.outcome, strict=True)
        if outcome == ANSWERED and at >= since and value == value  # noqa: PLR0124  # nan: no first token
    )
    return [quantile(chosen, q) for q in QUANTILES] if chosen else []


def _timeline(run: Run) -> dict[str, Any]:
    requests = run.requests
    failed = [0] * BINS
    for at, outcome in zip(requests.begun, requests.outcome, strict=True):
        if outcome != ANSWERED:
            failed[_part(run, at)] += 1
    return {
        "answered": [len(each) for each in _by_part(run)],
        "failed": [[part, count] for part, count in enumerate(failed) if count],
        "p95": p95_over(run),
    }


def p95_over(run: Run, digits: int = _DIGITS) -> list[float | None]:
    """Seconds: p95 of the answers to requests begun in each of ``BINS`` equal parts of the run; None without any."""
    return [
        None if (p95 := quantile(sorted(each), 0.95)) is None else round(p95, digits) for each in _by_part(run)
    ]


def _by_part(run: Run) -> list[list[float]]:
    """The latencies of the answers."""
    latencies: list[list[float]] = [[] for _ in range(BINS)]
    requests = run.requests
    for at, latency, outcome in zip(requests.begun, requests.latency, requests.outcome, strict=True):
        if outcome == ANSWERED:
            latencies[_part(run, at)].append(latency)
    return latencies


def _part(run: Run, at: float) -> int:
    return min(int(at / run.duration_s * BINS), BINS - 1)
