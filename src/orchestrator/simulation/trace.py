"""Recorded timings instead of drawn ones: a JSONL file, one call per line, from logs or any OpenTelemetry export.

::

    {"at": 0.0, "provider": "alpha", "first_token": 0.61, "duration": 3.2,
     "prompt_tokens": 812, "completion_tokens": 190, "ok": true}

``at`` is when the call began, in seconds on any clock (Unix time will do); ``first_token`` and ``duration`` are seconds
from there. ``first_token`` may be null or missing (a plain call), then it is drawn from the model. ``ok`` is true by
default; a call that was not ok fails with 500 after its duration. From OpenTelemetry's GenAI spans: start time,
``gen_ai.provider.name`` (or whatever names the deployment), the time of the first token where there is an event or a
metric, end minus start, ``gen_ai.usage.input_tokens``, ``gen_ai.usage.output_tokens``, status.

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

from orchestrator.simulation.model import Table
from orchestrator.simulation.scenario import ScenarioError

__all__ = ["Recorded", "Timing", "Trace", "load_traces"]

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


def load_traces(path: Path) -> Mapping[str, Trace]:
    """The traces of a file by provider; raises :class:`ScenarioError` with file and line."""
    records: dict[str, list[Recorded]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            record = _record(line, f"{path.name}, line {number}")
            records.setdefault(record.provider, []).append(record)
    if not records:
        raise ScenarioError(f"{path.name}: no records")
    times = [record.at for group in records.values() for record in group]
    begins, length = min(times), max(times) - min(times)
    return {name: Trace(group, begins=begins, length=length) for name, group in records.items()}


def _record(line: str, where: str) -> Recorded:
    try:
        return Recorded.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise ScenarioError(f"{where}: not JSON: {error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ScenarioError(f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
