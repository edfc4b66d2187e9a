"""A provider's own limits as leases: calls per minute, tokens per minute, calls at once, and what it told of them.

Exact over any minute: the times of the last calls are kept, not a bucket that lets a burst through at its edge.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from orchestrator.core.errors import (
    AuthenticationError,
    ContentFilteredError,
    InvalidRequestError,
    ModelNotFoundError,
    OrchestratorError,
    RateLimitError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.limits import RateLimits
from orchestrator.resilience.adaptive import AdaptiveLimit
from orchestrator.resilience.quota import LearntQuota

if TYPE_CHECKING:
    from orchestrator.core.config import LimitPolicy, ProviderConfig

__all__ = ["Lease", "Limits"]

MINUTE = 60.0
_REFUSALS = (RateLimitError, AuthenticationError, ModelNotFoundError, InvalidRequestError)
_TOO_MUCH = (Verdict.LIMITED, Verdict.OVERLOADED)


class Lease:
    """The room one call takes from ``at`` (loop time) on; goes back to its limits once.

    ``tokens`` is the estimate; ``charged`` is what stands in the minute's account, None when nothing does.
    """

    __slots__ = ("at", "charged", "limits", "released", "tokens")

    def __init__(self, limits: Limits, at: float, tokens: int) -> None:
        self.limits = limits
        self.at = at
        self.tokens = tokens
        self.charged: int | None = None
        self.released = False


class Limits:
    """Counts leases. ``acquire`` when ``wait_time`` is 0, ``release`` once per acquire with the tokens used.

    Tokens are charged at the time of the call: its estimate at once, which the real usage replaces at its end. They
    fit when the last minute has room for all of them, or is empty: a call larger than the whole limit runs alone.
    """

    __slots__ = (
        "_adaptive", "_calls", "_charges", "_concurrency", "_in_use", "_learnt_requests", "_learnt_tokens", "_rpm",
        "_spent", "_tpm", "_under_way",
    )

    def __init__(
        self, *, rpm: int | None = None, tpm: int | None = None, concurrency: int | None = None,
        adaptive: AdaptiveLimit | None = None, in_use: int = 0,
    ) -> None:
        self._adaptive = adaptive
        self._in_use = in_use
        self._under_way = 0  # estimated tokens of the leases that are out
        self._calls: deque[float] = deque()
        self._charges: deque[Lease] = deque()
        self._spent = 0
        self._learnt_requests: LearntQuota | None = None
        self._learnt_tokens: LearntQuota | None = None
        self._rpm, self._tpm, self._concurrency = rpm, tpm, concurrency

    @classmethod
    def of(
        cls, config: ProviderConfig, in_use: int = 0, before: Limits | None = None, policy: LimitPolicy | None = None
    ) -> Limits | None:
        """The limits of a configuration; None when it sets none and ``policy`` wants none found out.

        ``in_use`` calls are under way. ``before``, if there is one, is changed and returned: what it has counted goes
        on counting. Only what it has learnt is forgotten, for the key, address or model may be another one now.
        """
        adapts = policy is not None and policy.adaptive
        if config.rpm_limit is None and config.tpm_limit is None and config.max_concurrency is None and not adapts:
            return None
        limits = cls(in_use=in_use) if before is None else before
        limits.configure(config, policy)
        return limits

    def configure(self, config: ProviderConfig, policy: LimitPolicy | None = None) -> None:
        """Take over what the configuration says now."""
        self._rpm, self._tpm, self._concurrency = config.rpm_limit, config.tpm_limit, config.max_concurrency
        if self._adaptive is not None:
            self._adaptive.bound(self._concurrency)
        elif policy is not None and policy.adaptive:
            self._adaptive = AdaptiveLimit(policy, self._concurrency)
        self._learnt_requests = self._learnt_tokens = None

    @property
    def in_use(self) -> int:
        """Calls under way."""
        return self._in_use

    @property
    def concurrency(self) -> int | None:
        """How many calls may be under way, as configured or found out; None for any number."""
        return self._concurrency if self._adaptive is None else int(self._adaptive.limit)

    @property
    def full(self) -> bool:
        """Whether as many calls as allowed are under way: only the end of one of them makes room."""
        concurrency = self._concurrency if self._adaptive is None else self._adaptive.limit
        return concurrency is not None and self._in_use + 1 > concurrency

    @property
    def wakes(self) -> bool:
        """Whether the end of a call under way may make room: a place, or tokens that were estimated too high."""
        return self.full or (self.counts_tokens and self._under_way > 0)

    @property
    def counts_tokens(self) -> bool:
        """Whether an estimate of a call's tokens is of any use."""
        return self._tpm is not None or self._learnt_tokens is not None

    def wait_time(self, at: float, tokens: int = 0) -> float:
        """Seconds until a lease for ``tokens`` (0: unknown) may be had; ``inf`` when it depends on a call under way."""
        concurrency = self._concurrency if self._adaptive is None else self._adaptive.limit  # `full`, without its call
        if concurrency is not None and self._in_use + 1 > concurrency:
            return inf
        wait, tokens = 0.0, tokens or 1
        if self._rpm is not None:
            wait = self._until_callable(at, self._rpm)
        if self._tpm is not None:
            wait = max(wait, self._until_affordable(at, self._tpm - tokens))
        learnt = self._learnt_requests
        if learnt is not None and learnt.left < 1:
            wait = max(wait, learnt.wait_time(at, 1))
        learnt = self._learnt_tokens
        if learnt is not None and learnt.left < tokens:
            wait = max(wait, learnt.wait_time(at, tokens))
        return wait

    def room(self, at: float) -> float:
        """How many leases may be had now, as far as their tokens allow; ``inf`` for any number."""
        concurrency = self._concurrency if self._adaptive is None else self._adaptive.limit
        room = inf if concurrency is None else concurrency - self._in_use
        if self._rpm is not None:
            self._until_callable(at, self._rpm)
            room = min(room, self._rpm - len(self._calls))
        if self._learnt_requests is not None:
            room = min(room, self._learnt_requests.room(at))
        return room

    def acquire(self, at: float, tokens: int = 0) -> Lease:
        """Take a lease for a call of about so many tokens."""
        lease = Lease(self, at, tokens)
        self._in_use += 1
        self._under_way += tokens
        if self._rpm is not None:
            self._calls.append(at)
        if self._tpm is not None:
            self._charge(lease, tokens)
        if self._learnt_requests is not None:
            self._learnt_requests.take(1)
        if self._learnt_tokens is not None:
            self._learnt_tokens.take(tokens)
        return lease

    def release(
        self, lease: Lease | None, at: float, verdict: Verdict = Verdict.SUCCESS, *, tokens: int | None = None,
        latency: float | None = None, error: OrchestratorError | None = None,
    ) -> None:
        """Give the lease back; a second time changes nothing. None is a call that began before there were limits.

        ``tokens``: what the call used, prompt and completion. When the provider did not tell (``None``), a call that it
        refused is taken as free, and any other (answered without usage, timed out, cut, cancelled, failed) keeps
        its estimate: the provider may have counted it. ``latency``: seconds to the first token, or of a plain call.
        """
        if lease is not None:
            if lease.released:
                return
            lease.released = True
        if lease is None or lease.limits is not self:
            self._in_use -= 1
            if self._tpm is not None and tokens:
                self._charge(Lease(self, at, tokens), tokens)
            return
        if self._adaptive is not None:
            if verdict is Verdict.SUCCESS:
                self._adaptive.answered(lease.at, at, self._in_use, latency)
            elif verdict in _TOO_MUCH or (verdict is Verdict.FAILURE and isinstance(error, TimeoutError)):
                self._adaptive.dropped(lease.at, at)
        self._in_use -= 1
        self._under_way -= lease.tokens
        self._settle(lease, _used(lease, error) if tokens is None else tokens)

    def learn(self, report: RateLimits, at: float) -> None:
        """Take what a response told of the provider's limits, while the call that brought it is under way."""
        if report.requests is not None:
            if self._learnt_requests is None:
                self._learnt_requests = LearntQuota()
            self._learnt_requests.report(report.requests, at, self._in_use - 1)
        if report.tokens is not None:
            if self._learnt_tokens is None:
                self._learnt_tokens = LearntQuota()
            self._learnt_tokens.report(report.tokens, at, self._under_way)

    def learnt(self, at: float) -> RateLimits:
        """What is known of the provider's own limits now."""
        requests, tokens = self._learnt_requests, self._learnt_tokens
        return RateLimits(
            None if requests is None else requests.told(at), None if tokens is None else tokens.told(at)
        )

    def _charge(self, lease: Lease, tokens: int) -> None:
        lease.charged = tokens
        self._charges.append(lease)
        self._spent += tokens

    def _settle(self, lease: Lease, used: int) -> None:
        """Let the real usage replace the estimate."""
        if lease.charged is not None:
            self._spent += used - lease.charged
            lease.charged = used
        if self._learnt_tokens is not None:
            self._learnt_tokens.give_back(lease.tokens - used, lease.at)

    def _until_callable(self, at: float, rpm: int) -> float:
        """Seconds until the last minute holds fewer than ``rpm`` calls."""
        calls = self._calls
        while calls and calls[0] + MINUTE <= at:
            calls.popleft()
        return calls[len(calls) - rpm] + MINUTE - at if len(calls) >= rpm else 0.0

    def _until_affordable(self, at: float, room: int) -> float:
        """Seconds until the last minute holds at most ``room`` tokens, or none at all."""
        charges = self._charges
        while charges and charges[0].at + MINUTE <= at:
            oldest = charges.popleft()
            self._spent -= oldest.charged or 0
            oldest.charged = None
        left, wait = self._spent, 0.0
        for lease in charges:
            if left <= max(room, 0):
                break
            left -= lease.charged or 0
            wait = lease.at + MINUTE - at
        return wait


def _used(lease: Lease, error: OrchestratorError | None) -> int:
    refused = isinstance(error, _REFUSALS) and not isinstance(error, ContentFilteredError)
    return 0 if refused else lease.tokens
