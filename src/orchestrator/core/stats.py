"""What is known about one provider, kept up to date in O(1) per call; strategies and ``snapshot()`` read it."""

from __future__ import annotations

from bisect import bisect_right
from math import exp, inf

from orchestrator.core.types import Usage

__all__ = ["ROUNDING", "UNMEASURED", "CandidateView", "LatencyHistogram"]

TAU = 10.0  # seconds: how fast samples age (Finagle's peak EWMA uses the same)
BASE_TOKENS = 50.0  # a call costs this many tokens of time before the first one is written
MIN_SHARE = 0.1  # of the newest sample: a burst must not count for nothing, as it would by age alone
PENALTY = 5.0  # seconds a failure counts for, at least
PENALTY_FACTOR = 4.0  # and at least so many times the provider's own pace
OPENING = 0.5  # of the pace is how soon streams open: there a queue shows first, and more than in the whole answer
UNMEASURED = 0.01  # seconds per token, of a provider that has not answered yet
ROUNDING = 2.0 ** (1 / 8)  # from the middle of a bucket, which a quantile is, to its end
MEMORY = 1000.0  # samples of a histogram: then all it has counted counts half
TRACE = 0.01  # of a sample or a penalty: less than that is forgotten
WINDOW = 60.0  # seconds: how fast answers and failures are forgotten in the success share; as long as the breaker's
BENEFIT = 1.0  # answers that a provider is taken to have given: one failure in one call is no proof
MILLION = 1e6  # tokens, which prices are for


class CandidateView:
    """What a strategy sees of one provider. Read it; only the router writes.

    ``name, weight, priority, context_window`` come from the configuration; ``in_flight`` are calls under way;
    ``requests, failures, limited, prompt_tokens, completion_tokens, cost`` are totals; ``pace`` are seconds per token
    to compare providers by, None before the first answer: the mean of ``answer_pace``, an average of ``latency / (50 +
    completion tokens)``, and ``opening_pace``, an average of a stream's seconds to its first token, divided by 50; or
    ``answer_pace`` alone where no stream has told. ``penalty``, in the same unit, is what the last failure added.
    ``written`` is an average of completion tokens, None before the first count.
    ``sampled_at``, ``opened_at`` and ``penalised_at`` say when: loop time, ``-inf`` for never; ``last_latency`` are the
    seconds that the answer of ``sampled_at`` took. ``peak`` is as ``answer_pace``, but rises at once with a slow one;
    ``load`` is an average of how many calls were in flight when those answered began.
    ``recent_answers`` and ``recent_failures`` are counts that fade by ``e`` every 60 s, see ``success_share``.
    ``input_price``, ``cached_input_price``, ``output_price`` are USD per million tokens, None for unknown; ``cached``
    is an average of the share of the prompt that came out of the provider's cache.
    """

    __slots__ = (
        "answer_pace", "cached", "cached_input_price", "completion_tokens", "context_window", "cost", "counted_at",
        "failures", "histogram", "in_flight", "input_price", "last_latency", "limited", "load", "name", "opened_at",
        "opening_pace", "output_price", "pace", "peak", "penalised_at", "penalty", "priority", "prompt_tokens",
        "recent_answers", "recent_failures", "requests", "sampled_at", "weight", "written",
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
        self.answer_pace: float | None = None
        self.opening_pace: float | None = None
        self.opened_at = -inf
        self.written: float | None = None
        self.sampled_at = -inf
        self.last_latency = 0.0
        self.penalty = 0.0
        self.penalised_at = -inf
        self.peak: float | None = None
        self.load = 0.0
        self.recent_answers = 0.0
        self.recent_failures = 0.0
        self.counted_at = -inf
        self.input_price: float | None = None
        self.cached_input_price: float | None = None
        self.output_price: float | None = None
        self.cached = 0.0
        self.histogram = LatencyHistogram()

    def answered(self, at: float, latency: float, usage: Usage | None, length: int, load: float = 1.0) -> None:
        """Take a success: ``latency`` seconds; ``length`` characters stand in (4 per token) for unknown usage.

        ``load``: how many calls were in flight when it began, itself included.
        """
        written = 0 if usage is None else usage.completion_tokens
        sample = latency / (BASE_TOKENS + (written or length / 4))
        pace, peak, opening = self.answer_pace, self.peak, self.opening_pace
        if pace is None or peak is None:
            pace = self.peak = sample
            self.load = load
        else:
            share = aged = 1.0 - exp((self.sampled_at - at) / TAU)
            if share < MIN_SHARE:  # noqa: PLR1730  # max() would be a call per answer
                share = MIN_SHARE
            pace += share * (sample - pace)
            self.load += share * (load - self.load)
            # The peak is not hurried by a burst: what one slow answer has shown counts for ten seconds.
            self.peak = sample if sample > peak else peak + aged * (sample - peak)
        self.answer_pace = pace
        self.pace = pace if opening is None else pace + OPENING * (opening - pace)
        self.sampled_at = at
        self.last_latency = latency
        if at - self.counted_at >= 1.0:  # often enough, and seldom enough to cost nothing
            self._forget(at)
        self.recent_answers += 1.0
        if self.penalty:
            # A call that began before the last failure is only half a proof that new ones are answered again.
            self.penalty = 0.0 if at - latency >= self.penalised_at else self.penalty / 2
        self.histogram.add(latency)
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += written
            self.written = written if self.written is None else self.written + MIN_SHARE * (written - self.written)
            if (usage.cached_tokens or self.cached) and usage.prompt_tokens:
                self.cached += MIN_SHARE * (min(1.0, usage.cached_tokens / usage.prompt_tokens) - self.cached)

    def opened(self, at: float, first_token: float) -> None:
        """Take the seconds to the first token of a stream, as soon as it is there."""
        sample = first_token / BASE_TOKENS
        if self.opening_pace is None:
            self.opening_pace = sample
        else:
            share = max(MIN_SHARE, 1.0 - exp((self.opened_at - at) / TAU))
            self.opening_pace += share * (sample - self.opening_pace)
        self.opened_at = at
        if self.answer_pace is not None:
            self.pace = self._mixed(self.answer_pace)

    def failed(self, at: float, retry_after: float | None) -> None:
        """Take a failure: its speed says nothing, or the provider that fails fastest would look the best."""
        self.failures += 1
        self._forget(at)
        self.recent_failures += 1.0
        penalty = max(PENALTY, retry_after or 0.0) / BASE_TOKENS
        if self.pace is not None:
            penalty = max(penalty, PENALTY_FACTOR * self.pace)
        # What is left of an earlier, longer Retry-After must not be cut by a later, shorter one.
        self.penalty = max(penalty, self._faded(self.penalty, at))
        self.penalised_at = at

    def lost(self, at: float, waited: float, usage: Usage | None, length: int) -> None:
        """Take a call cancelled after ``waited`` seconds, because another was faster; that one's usage and length.

        The answer would have come later, nobody knows when: it counts only if it makes the provider look slower.
        """
        tokens = usage.completion_tokens if usage is not None and usage.completion_tokens else length / 4
        sample = waited / (BASE_TOKENS + tokens)
        if self.answer_pace is None or self.peak is None:
            self.answer_pace = self.peak = sample
        elif sample > self.answer_pace:
            share = max(MIN_SHARE, 1.0 - exp((self.sampled_at - at) / TAU))
            self.answer_pace += share * (sample - self.answer_pace)
            self.peak = max(sample, self.peak)
        self.pace = self._mixed(self.answer_pace)
        self.sampled_at = at
        self.last_latency = waited

    def expected_pace(self, at: float, unmeasured: float = UNMEASURED) -> float:
        """Seconds per token to expect now; a failure's penalty fades by ``e`` every 10 s.

        ``unmeasured`` stands in for the pace of a provider that has not answered yet.
        """
        if self.pace is None:
            penalty = max(self.penalty, PENALTY_FACTOR * unmeasured) if self.penalty else 0.0
            return max(unmeasured, self._faded(penalty, at))
        return max(self.pace, self._faded(self.penalty, at)) if self.penalty else self.pace

    def penalised(self, at: float, unmeasured: float = UNMEASURED) -> bool:
        """Whether a failure counts for more than what its answers have shown; for 46 s at most. So long it is ill."""
        if not self.penalty:
            return False
        left = exp((self.penalised_at - at) / TAU)
        return left > TRACE and self.penalty * left > (unmeasured if self.pace is None else self.pace)

    def success_share(self, at: float) -> float:
        """Share of the calls of the last minute or so that were answered; 1 for who has not been asked."""
        if not self.recent_failures:
            return 1.0
        kept = exp((self.counted_at - at) / WINDOW)
        failures = kept * self.recent_failures
        return 1.0 - failures / (failures + kept * self.recent_answers + BENEFIT)

    def price(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0.0) -> float | None:
        """USD for so many tokens, the cached ones part of the prompt; None when its prices are not known."""
        if self.input_price is None or self.output_price is None:
            return None
        cached_price = self.input_price if self.cached_input_price is None else self.cached_input_price
        read = self.input_price * (prompt_tokens - cached_tokens) + cached_price * cached_tokens
        return (read + self.output_price * completion_tokens) / MILLION

    def _mixed(self, pace: float) -> float:
        return pace if self.opening_pace is None else pace + OPENING * (self.opening_pace - pace)

    def _forget(self, at: float) -> None:
        kept = exp((self.counted_at - at) / WINDOW)
        self.recent_answers *= kept
        self.recent_failures = self.recent_failures * kept if self.recent_failures > TRACE else 0.0
        self.counted_at = at

    def _faded(self, penalty: float, at: float) -> float:
        return penalty * exp((self.penalised_at - at) / TAU)

    def __repr__(self) -> str:
        return f"CandidateView({self.name!r}, in_flight={self.in_flight}, pace={self.pace})"


# Milliseconds where the next bucket begins, four per doubling: times 2**(1/4), 2**(1/2), 2**(3/4). The last: > 800 s.
_BOUNDS = [2.0 ** (step // 4) * (1.0, 1.1892, 1.4142, 1.6818)[step % 4] for step in range(1, 80)]


class LatencyHistogram:
    """Counts in buckets that grow by 2**(1/4) from 1 ms: quantiles within 10 %, in constant memory and time.

    It forgets: whenever the counts add up to 1000 they are halved, so that 500 calls later a call counts half. A
    provider that has become slower must not look fast for the rest of the day.
    """

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0.0] * (len(_BOUNDS) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self._counts[bisect_right(_BOUNDS, seconds * 1000.0)] += 1.0
        self._total = total = self._total + 1.0
        if total >= MEMORY:
            self._counts = [count / 2 if count > TRACE else 0.0 for count in self._counts]
            self._total = sum(self._counts)

    def quantile(self, q: float) -> float | None:
        """The latency in seconds below which a share ``q`` of the calls lie; None without calls."""
        wanted = q * self._total * (1.0 - 1e-9)  # sums of halves are rounded
        seen = 0.0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return 0.001 * float(2.0 ** ((index + 0.5) / 4))
        return None

    def __len__(self) -> int:
        """How many calls count now."""
        return int(self._total)
