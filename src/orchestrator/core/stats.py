"""What is known about one provider, kept up to date in O(1) per call; strategies and ``snapshot()`` read it."""

from __future__ import annotations

from math import exp, frexp, inf

from orchestrator.core.types import Usage

__all__ = ["UNMEASURED", "CandidateView", "LatencyHistogram"]

TAU = 10.0  # seconds: how fast samples age (Finagle's peak EWMA uses the same)
BASE_TOKENS = 50.0  # a call costs this many tokens of time before the first one is written
MIN_SHARE = 0.1  # of the newest sample: a burst must not count for nothing, as it would by age alone
PENALTY = 5.0  # seconds a failure counts for, at least
PENALTY_FACTOR = 4.0  # and at least so many times the provider's own pace
UNMEASURED = 0.01  # seconds per token, of a provider that has not answered yet


class CandidateView:
    """What a strategy sees of one provider. Read it; only the router writes.

    ``name, weight, priority, context_window`` come from the configuration; ``in_flight`` are calls under way;
    ``requests, failures, limited, prompt_tokens, completion_tokens, cost`` are totals; ``pace`` is an average of
    seconds per token (``latency / (50 + completion tokens)``), None before the first answer; ``penalty``, in the same
    unit, is what the last failure added. ``sampled_at`` and ``penalised_at`` say when: loop time, ``-inf`` for never.
    """

    __slots__ = (
        "completion_tokens", "context_window", "cost", "failures", "histogram", "in_flight", "limited", "name",
        "pace", "penalised_at", "penalty", "priority", "prompt_tokens", "requests", "sampled_at", "weight",
    )

    def __init__(
        self, name: str, *, weight: float = 1.0, priority: int = 0, context_window: int | None = None
    ) -> None:
        self.name = name
        self.weight = weight
        self.priority = priority
        self.context_window = context_window
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        self.limited = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost = 0.0
        self.pace: float | None = None
        self.sampled_at = -inf
        self.penalty = 0.0
        self.penalised_at = -inf
        self.histogram = LatencyHistogram()

    def answered(self, at: float, latency: float, usage: Usage | None, length: int) -> None:
        """Take a success: ``latency`` seconds; ``length`` characters stand in (4 per token) for unknown usage."""
        tokens = usage.completion_tokens if usage is not None and usage.completion_tokens else length / 4
        sample = latency / (BASE_TOKENS + tokens)
        if self.pace is None:
            self.pace = sample
        else:
            share = max(MIN_SHARE, 1.0 - exp((self.sampled_at - at) / TAU))
            self.pace += share * (sample - self.pace)
        self.sampled_at = at
        if self.penalty:
            # A call that began before the last failure is only half a proof that new ones are answered again.
            self.penalty = 0.0 if at - latency >= self.penalised_at else self.penalty / 2
        self.histogram.add(latency)
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens

    def failed(self, at: float, retry_after: float | None) -> None:
        """Take a failure: its speed says nothing, or the provider that fails fastest would look the best."""
        self.failures += 1
        penalty = max(PENALTY, retry_after or 0.0) / BASE_TOKENS
        if self.pace is not None:
            penalty = max(penalty, PENALTY_FACTOR * self.pace)
        # What is left of an earlier, longer Retry-After must not be cut by a later, shorter one.
        self.penalty = max(penalty, self._faded(self.penalty, at))
        self.penalised_at = at

    def expected_pace(self, at: float, unmeasured: float = UNMEASURED) -> float:
        """Seconds per token to expect now; a failure's penalty fades by ``e`` every 10 s.

        ``unmeasured`` stands in for the pace of a provider that has not answered yet.
        """
        if self.pace is None:
            penalty = max(self.penalty, PENALTY_FACTOR * unmeasured) if self.penalty else 0.0
            return max(unmeasured, self._faded(penalty, at))
        return max(self.pace, self._faded(self.penalty, at)) if self.penalty else self.pace

    def _faded(self, penalty: float, at: float) -> float:
        return penalty * exp((self.penalised_at - at) / TAU)

    def __repr__(self) -> str:
        return f"CandidateView({self.name!r}, in_flight={self.in_flight}, pace={self.pace})"


class LatencyHistogram:
    """Counts in buckets that grow by 2**(1/4) from 1 ms: quantiles within 10 %, in constant memory and time."""

    __slots__ = ("_counts", "_total")
    _SIZE = 80  # the last one holds all above 1 000 s

    def __init__(self) -> None:
        self._counts = [0] * self._SIZE
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        fraction, exponent = frexp(seconds * 1000.0)
        # fraction is in [0.5, 1): four steps per doubling, with the boundaries 2**(-3/4), 2**(-1/2), 2**(-1/4).
        step = (fraction >= 0.5946) + (fraction >= 0.7071) + (fraction >= 0.8409)
        self._counts[min(max(4 * exponent + step - 4, 0), self._SIZE - 1)] += 1
        self._total += 1

    def quantile(self, q: float) -> float | None:
        """The latency in seconds below which a share ``q`` of all calls lie; None without calls."""
        wanted = q * self._total
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return 0.001 * float(2.0 ** ((index + 0.5) / 4))
        return None

    def __len__(self) -> int:
        return self._total
