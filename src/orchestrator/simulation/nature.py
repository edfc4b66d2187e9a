"""What a modelled provider does to a call that begins at a given time: no state, so it can be asked about the future.

What depends on other calls (queue, quotas, prompt cache, cold start) is :mod:`orchestrator.simulation.world`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, inf, log, pi
from typing import NamedTuple

from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContextWindowExceededError,
    OrchestratorError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
)
from orchestrator.simulation.luck import LEVELS, STEP, log_normal, mixed, uniforms
from orchestrator.simulation.model import BlackHole, BrownOut, Flapping, Outage, ProviderModel, Silence
from orchestrator.simulation.trace import Trace
from orchestrator.simulation.traffic import Job

__all__ = ["REFUSED", "SILENT_FOR", "Failure", "Nature", "Service", "error_of"]

REFUSED = 0  # in place of a status: no connection
SILENT_FOR = 600.0  # seconds after which a silent connection breaks, for callers without any timeout
_CUT_AT = 100.0  # times the least factor: the longest of a Pareto tail
_CUT = 7  # which draw
_LEVEL = LEVELS - 1
_LOW, _HIGH = 0xFFFFFF, 16777216.0
_ATTEMPT = 0xD1B54A32D192ED03  # odd, and nothing like STEP: repeated calls must not meet another provider's luck


class Failure(NamedTuple):
    """A call that fails: with what status (``REFUSED``: no connection), after how many seconds."""

    status: int
    after: float
    retry_after: float | None = None


class Service(NamedTuple):
    """A call that is served: seconds to the first token and to the last; ``breaks`` on the way, after so many."""

    first_token: float
    total: float
    breaks: float = inf


class Nature:
    """The model of one provider, with its luck. ``index`` is its place among the scenario's providers."""

    def __init__(self, model: ProviderModel, *, seed: int, index: int, trace: Trace | None = None) -> None:
        self.model = model
        self.trace = trace
        self._salt = mixed(mixed(seed) + (index + 1) * STEP)
        self._fails = [(e.from_s, e.until_s, e) for e in model.episodes if not isinstance(e, BrownOut)]
        self._slows = [(e.from_s, e.until_s, e) for e in model.episodes if isinstance(e, BrownOut)]
        self._interruptions = [
            (e.from_s, isinstance(e, Outage)) for e in model.episodes
            if isinstance(e, Outage | Silence) and e.interrupts
        ]
        first, rate = model.first_token, model.token_rate
        self._firsts = log_normal(first.median_s, first.sigma)
        self._rates = log_normal(rate.median_tps, rate.sigma)
        self._tail_from = 1.0 - first.tail_share
        self._diurnal = model.diurnal
        self._changes = bool(self._slows or self._diurnal)
        self._plain = not (self._fails or self._slows or model.error_share or (trace and not trace.always_ok))
        self._calm = not (self._fails or self._slows or trace)  # errors at any time alike, and nothing else
        self._even = self._plain and not (
            first.tail_share or trace or self._diurnal or model.cut_share or self._interruptions
        )

    def luck(self, job: Job, attempt: int = 0) -> int:
        """64 bits for the ``attempt``-th call (from 0) of this request here."""
        return mixed((job.key ^ self._salt) + attempt * _ATTEMPT)

    def failure(self, luck: int, at: float) -> Failure | None:
        """How a call that comes at this time fails, whatever the load; None when it does not."""
        if self._plain:
            return None
        if self._calm:
            fails = ((luck & _LOW) + 0.5) / _HIGH < self.model.error_share
            return Failure(500, self.model.error_after_s) if fails else None
        for begins, ends, episode in self._fails:
            if begins <= at < ends and (failure := _failing(episode, at)) is not None:
                return failure
        share = self.model.error_share
        for begins, ends, brown_out in self._slows:
            if begins <= at < ends:
                share = max(share, brown_out.error_share)
        event = ((luck & _LOW) + 0.5) / _HIGH  # the third of ``uniforms``, for which alone every call would pay thrice
        if event < share:
            return Failure(500, self.model.error_after_s)
        if self.trace is not None:
            timing = self.trace.at(at, event)
            if not timing.ok:
                return Failure(500, timing.duration)
        return None

    def service(self, luck: int, at: float, tokens: int) -> Service:
        """How fast it answers with so many tokens when it begins at this time."""
        first, rate = self._firsts[luck >> 52], self._rates[(luck >> 24) & _LEVEL]
        if self._even:
            return Service(first, first + tokens / rate)
        event = ((luck & _LOW) + 0.5) / _HIGH
        if event > self._tail_from:
            first *= self._tail(event)
        if self.trace is not None:
            timing = self.trace.at(at, event)
            first = first if timing.first_token is None else timing.first_token
            rate = timing.rate or rate
        slower = self.slowness(at) if self._changes else 1.0
        first *= slower
        total = first + tokens / rate * slower
        if self.model.cut_share or self._interruptions:
            return Service(first, total, self._breaks(luck, at, total))
        return Service(first, total)

    def slowness(self, at: float) -> float:
        """How many times longer everything takes at this time."""
        factor = 1.0
        for begins, ends, episode in self._slows:
            if begins <= at < ends:
                factor *= episode.slower
        if self._diurnal is not None:
            day = self._diurnal
            factor *= 1.0 + day.amplitude * cos(2 * pi * (at - day.peak_at_s) / day.period_s)
        return factor

    def silent(self, at: float) -> bool:
        """Whether a broken answer hangs (silence) rather than ends (outage) at this time."""
        return any(isinstance(e, Silence) and begins <= at < ends for begins, ends, e in self._fails)

    def _tail(self, event: float) -> float:
        tail = self.model.first_token
        if tail.tail_alpha is None:
            return tail.tail_factor
        left = (event - self._tail_from) / tail.tail_share
        return tail.tail_factor * min(exp(-log(1.0 - left) / tail.tail_alpha), _CUT_AT)

    def _breaks(self, luck: int, at: float, total: float) -> float:
        breaks = inf
        if self.model.cut_share:
            where, _, whether = uniforms(mixed(luck ^ _CUT))
            if whether < self.model.cut_share:
                breaks = where * total
        for begins, _ in self._interruptions:
            if at < begins < at + total:
                breaks = min(breaks, begins - at)
        return breaks


def _failing(episode: Outage | Silence | BlackHole | Flapping, at: float) -> Failure | None:
    if isinstance(episode, Silence):
        return Failure(REFUSED, SILENT_FOR)
    if isinstance(episode, BlackHole):
        return Failure(episode.status, episode.fails_in_s)
    if isinstance(episode, Flapping) and (at - episode.from_s) % episode.period_s >= (
        episode.down_share * episode.period_s
    ):
        return None
    return Failure(REFUSED, episode.fails_in_s)


_ERRORS: dict[int, Callable[..., OrchestratorError]] = {
    REFUSED: ConnectionFailedError,
    401: AuthenticationError,
    402: QuotaExceededError,
    413: ContextWindowExceededError,
    429: RateLimitError,
    500: ServerError,
    503: OverloadedError,
}


def error_of(failure: Failure, provider: str) -> OrchestratorError:
    """The error a real provider's adapter would raise."""
    return _ERRORS[failure.status](
        "modelled", provider=provider, status_code=failure.status or None, retry_after=failure.retry_after
    )
