"""A provider's own limits as leases: calls per minute, tokens per minute, calls at once.

Exact over any minute: the times of the last calls are kept, not a bucket that lets a burst through at its edge.
"""

from __future__ import annotations

from collections import deque
from math import inf

from orchestrator.core.config import ProviderConfig

__all__ = ["Limits"]

MINUTE = 60.0


class Limits:
    """Counts leases. ``acquire`` when ``wait_time`` is 0, ``release`` once per acquire with the tokens used."""

    __slots__ = ("_calls", "_concurrency", "_in_use", "_rpm", "_spent", "_tokens", "_tpm")

    def __init__(self, *, rpm: int | None = None, tpm: int | None = None, concurrency: int | None = None) -> None:
        self._rpm = rpm
        self._tpm = tpm
        self._concurrency = concurrency
        self._in_use = 0
        self._calls: deque[float] = deque(maxlen=rpm)
        self._tokens: deque[tuple[float, int]] = deque()
        self._spent = 0

    @classmethod
    def of(cls, config: ProviderConfig, in_use: int = 0, before: Limits | None = None) -> Limits | None:
        """The limits of a configuration; None when it sets none.

        ``in_use`` calls are under way; what ``before`` has counted goes on counting.
        """
        if config.rpm_limit is None and config.tpm_limit is None and config.max_concurrency is None:
            return None
        limits = cls(rpm=config.rpm_limit, tpm=config.tpm_limit, concurrency=config.max_concurrency)
        limits._take_over(in_use, before)
        return limits

    def _take_over(self, in_use: int, before: Limits | None) -> None:
        self._in_use = in_use
        if before is not None:
            self._calls.extend(before._calls)  # noqa: SLF001  # another of this class
            self._tokens.extend(before._tokens)  # noqa: SLF001
            self._spent = before._spent  # noqa: SLF001

    @property
    def full(self) -> bool:
        """Whether as many calls as allowed are under way: only the end of one of them makes room."""
        return self._concurrency is not None and self._in_use >= self._concurrency

    def wait_time(self, at: float) -> float:
        """Seconds until a lease may be had; ``inf`` when that depends on a call under way."""
        if self.full:
            return inf
        wait = 0.0
        if self._rpm is not None and len(self._calls) == self._rpm:
            wait = self._calls[0] + MINUTE - at
        if self._tpm is not None:
            self._forget(at)
            if self._spent >= self._tpm:
                wait = max(wait, self._until_affordable(at))
        return max(wait, 0.0)

    def acquire(self, at: float) -> None:
        """Take a lease."""
        self._in_use += 1
        if self._rpm is not None:
            self._calls.append(at)

    def release(self, at: float, tokens: int) -> None:
        """Give the lease back; ``tokens`` is what the call used, prompt and completion."""
        self._in_use -= 1
        if self._tpm is not None and tokens:
            self._tokens.append((at, tokens))
            self._spent += tokens

    def _forget(self, at: float) -> None:
        while self._tokens and self._tokens[0][0] <= at - MINUTE:
            self._spent -= self._tokens.popleft()[1]

    def _until_affordable(self, at: float) -> float:
        left = self._spent
        for when, tokens in self._tokens:
            left -= tokens
            if self._tpm is not None and left < self._tpm:
                return when + MINUTE - at
        return 0.0
