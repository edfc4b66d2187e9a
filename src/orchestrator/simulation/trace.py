"""Recorded timings instead of drawn ones: a JSONL file, one call per line.

::

    {"at": 0.0, "provider": "alpha", "first_token": 0.61, "duration": 3.2,
     "prompt_tokens": 812, "completion_tokens": 190, "ok": true}

``at`` is when the call began, in seconds on any clock (Unix time will do); ``first_token`` and ``duration`` are seconds
from there. ``first_token`` may be null or missing (a plain call), then it is drawn from the model. ``ok`` is true by
default; a call that was not ok fails with 500 after its duration. Instead of such lines the file may hold OpenTelemetry
spans or JSON logs of the router, see :mod:`orchestrator.simulation.export`.

A call at time t of the run gets the timings of one of the 16 records around t, counted from the earliest record of the
file; past its end the trace begins again. Token rate is what carries over, so long answers stay long: the record's
``completion_tokens / (duration - first_token)``.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from orchestrator.simulation.export import calls, values
from orchestrator.simulation.model import Table
from orchestrator.simulation.scenario import Scenario, ScenarioError

__all__ = ["Recorded", "Timing", "Trace", "load_records", "load_traces", "traces_of"]

_AROUND = 16  # records a call may be like: its neighbours in time, and still some chance


class Recorded(Table):
    """One line of the file. Seconds."""

    at: float
    provider: str
    first_token: float | None = Field(default=None, ge=0)
    duration: float = Field(ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    ok: bool = True


class Timing(NamedTuple):
    """What a call takes from the trace: seconds, and tokens a second (None: as the model says)."""

    first_token: float | None
    rate: float | None
    duration: float
    ok: bool


class Trace:
    """The recorded calls of one provider."""

    def __init__(self, records: Iterable[Recorded], *, begins: float, length: float) -> None:
        ordered = sorted(records, key=lambda record: record.at)
        self._at = [record.at - begins for record in ordered]
        self._timings = [_timing(record) for record in ordered]
        self.always_ok = all(timing.ok for timing in self._timings)
        self._length = length

    def at(self, at: float, share: float) -> Timing:
        """The timings for a call at this time of the run; ``share``, 0 to 1, picks among the neighbours."""
        nearest = bisect_left(self._at, at % self._length if self._length else 0.0)
        among = min(_AROUND, len(self._timings))
        first = min(max(nearest - among // 2, 0), len(self._timings) - among)
        return self._timings[first + int(share * among)]


def _timing(record: Recorded) -> Timing:
    first = record.first_token
    writing = record.duration - (first or 0.0)
    rate = record.completion_tokens / writing if writing > 0 and record.completion_tokens else None
    return Timing(first, rate, record.duration, record.ok)


def load_records(path: Path) -> list[Recorded]:
    """The recorded calls of a file, in the order in which they stand there; raises :class:`ScenarioError`, ``OSError``.

    Beside lines as above it may hold spans or log lines, see :mod:`orchestrator.simulation.export`.
    """
    text = path.read_text(encoding="utf-8")
    found = []
    try:
        for line, value in values(text):
            if not isinstance(value, dict):
                raise ScenarioError(f"{path.name}, line {line}: expected an object, found {json.dumps(value)[:40]}")
            found.append((line, value))
        made = calls(value for _, value in found)
    except json.JSONDecodeError as error:
        raise ScenarioError(f"{path.name}, line {error.lineno}: not JSON: {error.msg}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(f"{path.name}: a span or log line that cannot be read: {error!r}") from error
    if made is not None:
        return [_record(value, f"{path.name}, call {number}") for number, value in enumerate(made, 1)]
    return [_record(value, f"{path.name}, line {line}") for line, value in found]


def load_traces(path: Path) -> Mapping[str, Trace]:
    """The traces of a file by provider; raises as :func:`load_records`."""
    records: dict[str, list[Recorded]] = {}
    for record in load_records(path):
        records.setdefault(record.provider, []).append(record)
    if not records:
        raise ScenarioError(f"{path.name}: no records")
    times = [record.at for group in records.values() for record in group]
    begins, length = min(times), max(times) - min(times)
    return {name: Trace(group, begins=begins, length=length) for name, group in records.items()}


def traces_of(scenario: Scenario) -> Mapping[str, Trace]:
    """Those of the scenario's file, if it has one; raises as :func:`load_records`, also where no provider is in it."""
    if scenario.trace is None:
        return {}
    traces = load_traces(scenario.trace)
    if not any(provider.name in traces for provider in scenario.each_provider()):
        raise ScenarioError(f"{scenario.trace.name}: no call of any provider of the scenario; of {', '.join(traces)}")
    return traces


def _record(value: Mapping[str, object], where: str) -> Recorded:
    try:
        return Recorded.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = "".join(f"{step}: " for step in fault["loc"])
        raise ScenarioError(f"{where}: {place}{fault['msg'].removeprefix('Value error, ')}") from None
