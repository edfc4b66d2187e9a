"""What a provider is. A custom one implements one method, at the level it likes; the others follow from it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from orchestrator import core
from orchestrator.core.accumulate import Accumulator
from orchestrator.core.backoff import backoff_delay, retries_allowed
from orchestrator.core.clock import new_random
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    ProviderError,
    RateLimitError,
    TimeoutError,
)
from orchestrator.core.lazy import lazy
from orchestrator.core.limits import RateLimits
from orchestrator.core.types import Completion, Finished, Request, StreamEvent, TextDelta
from orchestrator.providers._errors import wrap_foreign
from orchestrator.providers._rate_limits import rate_limits

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from orchestrator.core.config import GenerationParams, ProviderConfig
else:
    __getattr__, __dir__ = lazy(__name__, dict.fromkeys(
        ("GenerationParams", "ProviderConfig"), "orchestrator.core.config"
    ))

__all__ = [
    "CONVERSATION",
    "EVERYTHING",
    "PARAMS",
    "AuthenticationError",
    "BaseProvider",
    "GenerationParams",
    "InvalidRequestError",
    "ProviderConfig",
    "ProviderError",
    "RateLimitError",
    "TimeoutError",
]

T = TypeVar("T")

PARAMS = frozenset({"temperature", "max_tokens", "top_p", "stop", "seed"})
CONVERSATION = PARAMS | {"messages"}
EVERYTHING = CONVERSATION | {"images", "tools", "tool_choice", "json_object", "json_schema"}


class BaseProvider:
    """One LLM service. Implement **one** of these, the others follow:

    - ``generate(prompt, params) -> str``
    - ``generate_stream(prompt, params)``: an async generator of text pieces
    - ``complete(request) -> Completion``
    - ``open_stream(request)``: an async generator of stream events, ``Finished`` last

    ``supports`` names the features of a request the provider can carry (see ``Request.needs``); a request that needs
    another one never reaches it. By default: the knobs of ``GenerationParams``, and whole conversations where
    ``complete`` or ``open_stream`` is implemented. ``streams_usage``: its streams come piece by piece and tell usage at
    their end, so a plain call may be read as a stream (``Router(stream_plain_calls=True)``).

    Errors to raise: those of ``orchestrator.errors``; any other exception is taken as this provider's failure.
    """

    supports: ClassVar[frozenset[str]] = PARAMS
    streams_usage: bool = False
    _rate_limit_watchers: tuple[Callable[[RateLimits], None], ...] = ()

    def __init__(self, config: ProviderConfig) -> None:
        cls = type(self)
        if not any(_overrides(cls, name) for name in ("generate", "generate_stream", "complete", "open_stream")):
            raise TypeError(
                f"{cls.__name__} must implement one of generate, generate_stream, complete or open_stream"
            )
        if not isinstance(config, core.config.ProviderConfig):
            raise TypeError(f"config is {type(config).__name__}; expected ProviderConfig(name=..., ...)")
        self.config = config
        self.logger = logging.getLogger(f"orchestrator.providers.{config.name}")
        self.routed = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "supports" not in cls.__dict__ and ("complete" in cls.__dict__ or "open_stream" in cls.__dict__):
            cls.supports = cls.supports | CONVERSATION

    @property
    def name(self) -> str:
        """The name in the configuration, unique within a router."""
        return self.config.name

    async def generate(self, prompt: str, params: GenerationParams | None = None) -> str:
        """The text that answers ``prompt``."""
        return (await self.complete(Request(prompt, params))).text

    async def generate_stream(self, prompt: str, params: GenerationParams | None = None) -> AsyncGenerator[str, None]:
        """The same text, piece by piece."""
        async with aclosing(self.open_stream(Request(prompt, params, stream=True))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text

    async def complete(self, request: Request) -> Completion:
        """The whole answer."""
        cls = type(self)
        if _overrides(cls, "generate"):
            return Completion(await self.generate(self._only_prompt(request), request.params))
        answer = Accumulator()
        events = self.open_stream(request)
        try:
            async for event in events:
                answer.add(event)
                if answer.finished:
                    break
        finally:
            with suppress(Exception):  # a close that fails, or is missing, must not cost the answer
                await events.aclose()
        return answer.completion(self.name)

    async def open_stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """The answer piece by piece; the last event is ``Finished``, whose completion may leave ``text`` empty."""
        if _overrides(type(self), "generate_stream"):
            pieces = self.generate_stream(self._only_prompt(request), request.params)
            async with aclosing(pieces) as texts:
                async for text in texts:
                    if text:
                        yield TextDelta(text)
            yield Finished(Completion(""))
            return
        completion = await self.complete(request)
        if completion.text:
            yield TextDelta(completion.text)
        yield Finished(completion)

    def unsupported(self, request: Request) -> str | None:
        """The field of ``request`` that this provider cannot carry, or None; asked before it is a candidate."""
        missing = request.needs - self.supports
        return min(missing) if missing else None

    def on_rate_limits(self, watcher: Callable[[RateLimits], None]) -> None:
        """Call ``watcher`` with whatever a response tells of the service's limits."""
        self._rate_limit_watchers = (*self._rate_limit_watchers, watcher)

    def off_rate_limits(self, watcher: Callable[[RateLimits], None]) -> None:
        """Call it no more; ``ValueError`` when it was not."""
        watchers = list(self._rate_limit_watchers)
        watchers.remove(watcher)
        self._rate_limit_watchers = tuple(watchers)

    def report_rate_limits(self, limits: RateLimits) -> None:
        """Tell what is left of the service's limits; for a provider that learns it otherwise than from headers.

        To be called within a call, as soon as it is known, success or error.
        """
        for watcher in self._rate_limit_watchers:
            watcher(limits)

    def _report_rate_limits(self, headers: Mapping[str, str]) -> None:
        """Tell what the headers of a response say of them; any response's, and costs nothing when nobody watches."""
        if self._rate_limit_watchers:
            limits = rate_limits(headers)
            if limits is not None:
                self.report_rate_limits(limits)

    async def health_check(self) -> bool:
        """Whether the service can be reached with this configuration; never raises."""
        return True

    async def aclose(self) -> None:
        """Release connections; called once, after the last call."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _retry_with_backoff(self, func: Callable[[], Awaitable[T]]) -> T:
        """Call ``func``, again after a failure that may pass; once only when a router drives this provider.

        The router has its own retry loop, and two loops multiply: 3 x 3 calls on a provider that is already down.
        """
        if self.routed:
            return await func()
        from tenacity import AsyncRetrying

        policy = core.config.RetryPolicy()
        if self.config.max_retries is not None:
            policy = policy.model_copy(update={"max_retries": self.config.max_retries})
        random = new_random()

        def known(state: RetryCallState) -> ProviderError | None:
            exc = state.outcome.exception() if state.outcome else None
            error = wrap_foreign(exc, provider=self.name) if isinstance(exc, Exception) else None
            return error if isinstance(error, ProviderError) else None

        def again(state: RetryCallState) -> bool:
            error = known(state)
            return error is not None and state.attempt_number <= retries_allowed(error, policy)

        def delay(state: RetryCallState) -> float:
            error = known(state)
            hint = error.retry_after if error else None
            return backoff_delay(policy, state.attempt_number, random) if hint is None else hint

        async def attempt() -> T:  # tenacity awaits only what is declared async: not a lambda that returns a coroutine
            return await func()

        return await AsyncRetrying(retry=again, wait=delay, reraise=True)(attempt)

    def _only_prompt(self, request: Request) -> str:
        if request.prompt is None:
            raise InvalidRequestError("messages: this provider takes a single prompt", provider=self.name)
        field = self.unsupported(request) if request.needs else None
        if field is not None:  # only a prompt and its params are handed on: the rest would be dropped silently
            raise InvalidRequestError(f"{field}: this provider does not take it", provider=self.name)
        return request.prompt


def _overrides(cls: type[BaseProvider], name: str) -> bool:
    return getattr(cls, name) is not getattr(BaseProvider, name)
