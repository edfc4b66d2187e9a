"""What users configure: frozen, validated policies, and the one mutable ``ProviderConfig``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from orchestrator.core.accumulate import MAX_ARGUMENTS, MAX_CALLS, MAX_EVENTS

__all__ = [
    "DEFAULT_TIMEOUTS", "DEFAULT_WIRE_LIMITS", "BreakerPolicy", "GenerationParams", "HedgePolicy", "LimitPolicy",
    "ProviderConfig", "RecoveryPolicy", "RetryPolicy", "Timeouts", "WireLimits",
]

_KIB = 1024
_MIB = 1024 * 1024

_CREDENTIALS = re.compile(r"(?<=//)[^/?#]+(?=@)|(?<=\?).+")  # user:password@ and the query of a URL


class _Settings(BaseModel):
    """Refuses an unknown field with the list of the known ones, and never repeats a value (it may be a key)."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, validate_default=True, frozen=True,
        defer_build=True,  # at the first use: most programs never use them all
    )

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: Any) -> Any:  # noqa: ANN401  # pydantic hands over whatever was given
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    raise ValueError(cls._unknown(str(name)))
        return data

    @classmethod
    def _unknown(cls, name: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(name, cls.model_fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown field {name!r}.{hint} {cls.__name__} knows: {', '.join(cls.model_fields)}"


class _Watchers(list[Callable[[], None]]):
    """Who is told of an assignment. No part of the settings: neither compared, nor copied, nor pickled with them."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Watchers)

    def __reduce__(self) -> tuple[type[_Watchers], tuple[()]]:
        return _Watchers, ()


class ProviderConfig(_Settings):
    """How to reach one provider, and how the router may use it.

    A known field may be assigned later (it is validated); an unknown one is refused. Seconds throughout. ``timeout``
    caps one attempt at this provider, streams included; ``None`` leaves it to ``Timeouts``. ``weight`` and
    ``priority`` (lower first) are read by the strategies of the same names. ``None`` of a limit means no limit.
    Prices are USD per million tokens, ``None`` for unknown; cached input without a price of its own costs as input.
    ``engine`` is what carries HTTP; ``None``: the fast one where it is installed, unless a client was given.
    """

    model_config = ConfigDict(frozen=False, validate_assignment=True, protected_namespaces=())

    name: str = Field(min_length=1)
    api_key: str | None = Field(default=None, repr=False)
    base_url: str | None = None
    auth_url: str | None = None
    model: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    max_retries: int | None = Field(default=None, ge=0, le=10)
    verify_ssl: bool = True
    ca_bundle: str | None = None
    engine: Literal["fast", "httpx"] | None = None
    scope: str | None = None
    folder_id: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    priority: int = 0
    rpm_limit: int | None = Field(default=None, gt=0)
    tpm_limit: int | None = Field(default=None, gt=0)
    max_concurrency: int | None = Field(default=None, gt=0)
    context_window: int | None = Field(default=None, gt=0)
    input_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cached_input_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    output_price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    enabled: bool = True
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    extra_body: dict[str, Any] = Field(default_factory=dict, repr=False)

    _watchers: _Watchers = PrivateAttr(default_factory=_Watchers)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in type(self).model_fields:
            raise ValueError(self._unknown(name))
        super().__setattr__(name, value)
        for watcher in self._watchers:
            watcher()

    def __copy__(self) -> Self:
        copied = super().__copy__()
        super(ProviderConfig, copied).__setattr__("_watchers", _Watchers())
        return copied

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` after every assignment."""
        self._watchers.append(watcher)

    def off_change(self, watcher: Callable[[], None]) -> None:
        """Call it no more."""
        self._watchers.remove(watcher)

    def __repr_args__(self) -> Any:  # noqa: ANN401  # pydantic's own signature
        for name, value in super().__repr_args__():
            yield name, _CREDENTIALS.sub("***", value) if isinstance(value, str) else value


class GenerationParams(_Settings):
    """Knobs of one generation; what is unset is not sent."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: tuple[str, ...] | None = None
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_stop_is_a_list_of_one(cls, data: Any) -> Any:  # noqa: ANN401  # pydantic hands over whatever was given
        if isinstance(data, dict) and isinstance(data.get("stop"), str):
            return {**data, "stop": (data["stop"],)}
        return data

    def given(self) -> dict[str, Any]:
        """The knobs that are set, by name."""
        return {name: value for name, value in self if value is not None}


class Timeouts(_Settings):
    """Limits in seconds.

    ``total`` is the one deadline of a whole request: retries, failovers and waiting included. ``connect``,
    ``first_token`` and ``idle`` (between two pieces of a stream) guard each attempt; ``attempt`` is the limit of one
    plain call, whose first token cannot be seen, and by default half of ``total``, so that one failover fits.
    """

    connect: float = Field(default=5, gt=0)
    first_token: float = Field(default=20, gt=0)
    idle: float = Field(default=20, gt=0)
    total: float = Field(default=120, gt=0)
    attempt: float = Field(default=0, ge=0, description="0: half of total")

    @model_validator(mode="after")
    def _half_of_total(self) -> Self:
        if not self.attempt:
            object.__setattr__(self, "attempt", self.total / 2)  # frozen only once it is made
        return self


class RetryPolicy(_Settings):
    """Retry in place: at most ``max_retries`` further attempts at the same provider, full jitter between them.

    The n-th wait is drawn from ``U(0, min(max_delay, base_delay * 2**(n-1)))`` seconds (Brooker, "Exponential Backoff
    And Jitter"); Retry-After replaces it. ``patience``: how long a Retry-After, in seconds, is waited for in place;
    a longer one is a pause, after which the provider may be asked again, within ``max_retries`` too. In an outage each
    provider is retried at most ``budget_floor + budget_ratio * calls`` times, counted over the last ten seconds
    (Finagle's retry budget).
    """

    max_retries: int = Field(default=2, ge=0, le=10)
    base_delay: float = Field(default=0.2, gt=0)
    max_delay: float = Field(default=5.0, gt=0)
    patience: float = Field(default=0.25, ge=0)
    max_retry_after: float = Field(default=300.0, gt=0, description="a longer Retry-After is taken as this")
    budget_ratio: float = Field(default=0.2, ge=0, description="retries per call of a provider, at most")
    budget_floor: float = Field(default=10.0, ge=0, description="retries in about 10 s that are always allowed")


class HedgePolicy(_Settings):
    """A second attempt at another provider when the answer of the first is late; the first to answer wins.

    Late is ``max(min_delay, min(q, median_factor * median))`` seconds after the call: ``q`` is the ``quantile`` and
    ``median`` the median of that provider's own recent times to the first token; of its latency, for a plain call that
    is not read as a stream. Until it has ``min_samples`` of them, ``first_delay`` seconds (``None``: no hedge). Each
    hedge is taken out of the retry budget of the provider that is late. A hedge that fails is followed by the next one
    at once, at most ``max_hedges`` per request.
    """

    quantile: float = Field(default=0.95, gt=0, lt=1)
    median_factor: float = Field(default=3.0, ge=1)
    min_delay: float = Field(default=0.05, ge=0)
    min_samples: int = Field(default=20, ge=1, le=500)
    first_delay: float | None = Field(default=None, gt=0)
    max_hedges: int = Field(default=1, ge=1, le=10)


class RecoveryPolicy(_Settings):
    """What is done for a reader whose stream broke after its first piece.

    ``error``: ``StreamInterruptedError`` with what was received. ``restart``: another provider answers from the
    beginning. ``continue``: another provider goes on where the text stopped: as the beginning of its own answer where
    it supports ``prefill``, else asked by a user message with the text ``instruction`` (``None``: never asked so), else
    as with ``restart``. At most ``max_recoveries`` times per request. What a continuation repeats of the text before
    it is cut off where that is ``min_overlap`` to ``max_overlap`` characters long, or all of the text.
    """

    mode: Literal["error", "restart", "continue"] = "error"
    instruction: str | None = Field(
        default="Continue exactly where your text stops, in the same language. Repeat nothing, comment on nothing.",
        min_length=1,
    )
    max_recoveries: int = Field(default=5, ge=1, le=100)
    min_overlap: int = Field(default=8, ge=1)
    max_overlap: int = Field(default=2000, ge=0)


class BreakerPolicy(_Settings):
    """When a provider is taken out, and how it comes back. Seconds and ratios.

    Opens on ``consecutive_failures`` (but for overloads, 503 and 529, of a provider that has answered others within the
    last tenth of ``window``), or when at least ``min_calls`` calls ended within ``window`` and ``failure_ratio`` of
    them failed or ``slow_ratio`` took longer than ``slow_call`` (``None``: speed is not judged).
    Stays open for ``min(break_base * 2**k, break_max) * (1 + U(0, break_jitter))``; ``k`` grows with each break in
    a row and decays by one per healthy window; after refused credentials ``credentials_break`` stands in for
    ``break_base``. Then lets ``probes`` calls through, each judged within ``probe_timeout``; closes after ``probes``
    successes, and ramps traffic up over ``ramp`` seconds.
    """

    enabled: bool = True
    window: float = Field(default=60, gt=0)
    min_calls: int = Field(default=10, ge=1)
    failure_ratio: float = Field(default=0.5, gt=0, le=1)
    consecutive_failures: int = Field(default=5, ge=1)
    slow_call: float | None = Field(default=None, gt=0)
    slow_ratio: float = Field(default=0.8, gt=0, le=1)
    break_base: float = Field(default=5, gt=0)
    break_max: float = Field(default=300, gt=0)
    credentials_break: float = Field(default=60, gt=0)
    break_jitter: float = Field(default=0.1, ge=0, le=1)
    probes: int = Field(default=1, ge=1)
    probe_timeout: float = Field(default=60, gt=0)
    ramp: float = Field(default=10, ge=0)


class LimitPolicy(_Settings):
    """How limits that nobody configured are found, and how many requests may wait for room.

    ``learn``: heed what a provider's responses tell of its limits. ``adaptive``: find out how many calls at once a
    provider bears (AIMD), between ``adaptive_min`` and ``ProviderConfig.max_concurrency`` (1000 without it): from
    ``adaptive_initial`` up by one per round trip, times ``adaptive_backoff`` after a 429, an overload, a timeout, or a
    first token (of a plain call: an answer) later than ``adaptive_latency`` seconds (``None``: speed is not judged).
    """

    queue_size: int = Field(default=1000, ge=0, description="requests that may wait at once")
    learn: bool = True
    adaptive: bool = False
    adaptive_initial: int = Field(default=20, ge=1)
    adaptive_min: int = Field(default=1, ge=1)
    adaptive_backoff: float = Field(default=0.9, gt=0, lt=1)
    adaptive_latency: float | None = Field(default=None, gt=0)


class WireLimits(_Settings):
    """What may come in one response; beyond it: :class:`MalformedResponseError`, which names the limit.

    Bytes: ``headers`` (the whole block), ``body`` (of a plain answer, unpacked), ``stream`` (a whole one, unpacked),
    ``line`` (one line or event of a stream). ``depth`` is the nesting of JSON, ``values`` the values in one JSON text
    (a value takes up to thirty times its bytes in memory), ``events`` those of one stream, ``tool_calls`` the calls of
    one answer and ``arguments`` the characters of their arguments.
    """

    headers: int = Field(default=64 * _KIB, gt=0)
    body: int = Field(default=16 * _MIB, gt=0)
    stream: int = Field(default=64 * _MIB, gt=0)
    line: int = Field(default=_MIB, gt=0)
    depth: int = Field(default=100, gt=0, le=500, description="deeper values cannot be shown or compared")
    values: int = Field(default=1_000_000, gt=0)
    events: int = Field(default=500_000, gt=0, le=MAX_EVENTS)
    tool_calls: int = Field(default=1_000, gt=0, le=MAX_CALLS)
    arguments: int = Field(default=4 * _MIB, gt=0, le=MAX_ARGUMENTS)


# What holds where nobody says otherwise; made here, since the first of a class takes milliseconds.
DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_WIRE_LIMITS = WireLimits()
