"""What a user writes: providers, what befalls them, traffic. Frozen; ``_s`` are seconds, ``_rps`` requests a second.

Times of episodes and bursts count from the beginning of the run. Shares are 0 to 1.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.core.config import ProviderConfig

__all__ = [
    "BlackHole",
    "BrownOut",
    "Burst",
    "ColdStart",
    "Diurnal",
    "Episode",
    "FirstToken",
    "Flapping",
    "Outage",
    "Prices",
    "PriorityClass",
    "PromptCache",
    "ProviderModel",
    "Sessions",
    "Silence",
    "Sizes",
    "Table",
    "TokenRate",
    "TrafficModel",
]

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Table(BaseModel):
    """One table of a scenario file; refuses an unknown field with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, data: Any) -> Any:  # noqa: ANN401  # pydantic hands over whatever was given
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                near = get_close_matches(str(name), cls.model_fields, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown field {name!r}.{hint} Known: {', '.join(cls.model_fields)}")
        return data


class _Span(Table):
    """From ``from_s`` to before ``until_s``."""

    from_s: Seconds
    until_s: Seconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.until_s <= self.from_s:
            raise ValueError(f"until_s {self.until_s:g} is not after from_s {self.from_s:g}")
        return self


class Outage(_Span):
    """Connections are refused after ``fails_in_s``; ``interrupts``: calls under way break when it begins."""

    kind: Literal["outage"] = "outage"
    fails_in_s: Seconds = 0.005
    interrupts: bool = False


class Silence(_Span):
    """Calls are taken and never answered; ``interrupts``: answers under way stop, too."""

    kind: Literal["silence"] = "silence"
    interrupts: bool = False


class BlackHole(_Span):
    """Every call fails with ``status`` after ``fails_in_s``, which looks fast."""

    kind: Literal["black_hole"] = "black_hole"
    fails_in_s: Seconds = 0.005
    status: Literal[401, 402, 429, 500, 503] = 500


class BrownOut(_Span):
    """Calls begun in it take ``slower`` times as long (first token and every token); ``error_share`` fail with 500."""

    kind: Literal["brown_out"] = "brown_out"
    slower: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    error_share: Share = 0.0


class Flapping(_Span):
    """Refuses connections for the first ``down_share`` of every ``period_s``."""

    kind: Literal["flapping"] = "flapping"
    period_s: float = Field(gt=0, allow_inf_nan=False)
    down_share: Share = 0.5
    fails_in_s: Seconds = 0.005


Episode = Annotated[Outage | Silence | BlackHole | BrownOut | Flapping, Field(discriminator="kind")]


class FirstToken(Table):
    """Seconds to the first token: log-normal, and for ``tail_share`` of the calls ``tail_factor`` times longer.

    With ``tail_alpha`` that factor is the least of a Pareto distribution with this index (smaller: heavier), cut at
    100 times itself.
    """

    median_s: float = Field(gt=0, allow_inf_nan=False)
    sigma: float = Field(default=0.0, ge=0, le=4, description="standard deviation of the logarithm")
    tail_share: Share = 0.0
    tail_factor: float = Field(default=10.0, ge=1)
    tail_alpha: float | None = Field(default=None, gt=0)


class TokenRate(Table):
    """Tokens a second after the first one: log-normal from call to call."""

    median_tps: float = Field(gt=0, allow_inf_nan=False)
    sigma: float = Field(default=0.0, ge=0, le=4)


class Prices(Table):
    """USD per million tokens; ``cached_input`` is what a prompt cache had (default: as ``input``)."""

    input: float = Field(default=0.0, ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    output: float = Field(default=0.0, ge=0)


class PromptCache(Table):
    """A session's prompt stays warm for ``keeps_s`` after its last call, from ``min_tokens`` on.

    A call whose prompt is warm has ``first_token_factor`` of the time to the first token; partly warm, in proportion.
    """

    keeps_s: Seconds = 300.0
    min_tokens: int = Field(default=1024, ge=0)
    first_token_factor: float = Field(default=0.3, gt=0, le=1)


class ColdStart(Table):
    """The first call after ``after_idle_s`` without any waits ``extra_s`` longer for its first token."""

    after_idle_s: Seconds
    extra_s: Seconds


class Diurnal(Table):
    """Slower and faster by ``amplitude`` of the normal, as a sine of ``period_s``, slowest at ``peak_at_s``."""

    amplitude: float = Field(ge=0, lt=1)
    period_s: float = Field(default=86_400.0, gt=0)
    peak_at_s: float = 0.0


class ProviderModel(Table):
    """One modelled provider, or ``copies`` of it, named ``name-1``, ``name-2``…

    ``capacity``: calls served at once; ``queue`` more wait in order, the next is refused with ``full_status``.
    ``rpm`` and ``tpm``: the provider's own quotas, as token buckets that hold ``quota_burst_s`` seconds' worth; a
    429 tells Retry-After. ``error_share`` of the calls fail with 500 after ``error_after_s``; ``cut_share`` of the
    answers break on the way. ``refuses_in_s``: how fast a 429, 503 or 400 comes. ``config``: what the router is told,
    any field of ``ProviderConfig``. ``trace``: recorded timings of this provider replace ``first_token`` and
    ``token_rate`` (see :class:`Scenario`).
    """

    name: str = Field(min_length=1)
    copies: int = Field(default=1, ge=1, le=1000)
    first_token: FirstToken
    token_rate: TokenRate
    capacity: int | None = Field(default=None, ge=1)
    queue: int | None = Field(default=None, ge=0)
    full_status: Literal[429, 503] = 503
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    quota_burst_s: float = Field(default=10.0, gt=0)
    prices: Prices = Prices()
    prompt_cache: PromptCache | None = None
    error_share: Share = 0.0
    error_after_s: Seconds = 0.2
    cut_share: Share = 0.0
    refuses_in_s: Seconds = 0.02
    cold_start: ColdStart | None = None
    diurnal: Diurnal | None = None
    context_window: int | None = Field(default=None, ge=1)
    episodes: tuple[Episode, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _a_known_config(self) -> Self:
        if "name" in self.config:
            raise ValueError("config.name is the provider's name; leave it out")
        self.provider_config(self.name)
        return self

    def provider_config(self, name: str) -> ProviderConfig:
        """What the router is told of the copy called ``name``."""
        told: dict[str, Any] = {"context_window": self.context_window}
        if "prices" in self.model_fields_set:
            prices = self.prices
            told |= {
                "input_price": prices.input, "cached_input_price": prices.cached_input, "output_price": prices.output
            }
        return ProviderConfig(**{**told, **self.config, "name": name})

    def each(self) -> tuple[ProviderModel, ...]:
        """The copies, each with its own name."""
        if self.copies == 1:
            return (self,)
        return tuple(
            self.model_copy(update={"name": f"{self.name}-{number}", "copies": 1})
            for number in range(1, self.copies + 1)
        )


class Sizes(Table):
    """A number of tokens: log-normal, at least 1, at most ``most``."""

    median: float = Field(gt=0)
    sigma: float = Field(default=0.0, ge=0, le=4)
    most: int = Field(default=32_000, ge=1)


class Burst(_Span):
    """``extra_rps`` more from ``from_s`` to ``until_s``, again every ``every_s`` if that is given."""

    extra_rps: float = Field(gt=0, allow_inf_nan=False)
    every_s: float | None = Field(default=None, gt=0)

    def at(self, at: float) -> float:
        """Extra requests a second at this time."""
        if self.every_s is not None and at > self.from_s:
            at = self.from_s + (at - self.from_s) % self.every_s
        return self.extra_rps if self.from_s <= at < self.until_s else 0.0


class Sessions(Table):
    """``number`` conversations at once, of ``turns`` turns each; the next turn comes ``think_s`` after an answer.

    The prompt of a turn is ``prefix_tokens`` (the session's own, the same in all its turns), all earlier turns and
    answers, and a new part of ``TrafficModel.prompt_tokens``. Thinking times are exponential. A failed turn ends
    its conversation, a new one takes its place.
    """

    number: int = Field(ge=1)
    turns: int = Field(default=5, ge=1)
    prefix_tokens: int = Field(default=2000, ge=0)
    think_s: float = Field(default=20.0, gt=0)


class PriorityClass(Table):
    """A share of the requests with a deadline of its own; of those that wait, the smallest ``priority`` goes first."""

    name: str
    share: float = Field(gt=0, description="in proportion to the other classes' shares")
    priority: int = 0
    deadline_s: float | None = Field(default=None, gt=0)


class TrafficModel(Table):
    """Requests: Poisson with ``rate_rps``, plus ``bursts``, plus ``sessions``.

    ``streamed``: the share that is read as a stream. ``deadline_s``: the caller's timeout, else ``Timeouts.total``.
    """

    rate_rps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    bursts: tuple[Burst, ...] = ()
    sessions: Sessions | None = None
    prompt_tokens: Sizes = Sizes(median=600, sigma=0.8)
    completion_tokens: Sizes = Sizes(median=200, sigma=0.8)
    streamed: Share = 0.0
    deadline_s: float | None = Field(default=None, gt=0)
    classes: tuple[PriorityClass, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.rate_rps or self.bursts or self.sessions):
            raise ValueError("no requests: give rate_rps, bursts or sessions")
        return self
