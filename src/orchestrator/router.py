"""START HERE: the public verbs. A router holds providers and answers as long as one of them can."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from orchestrator import core
from orchestrator.attempt import Call
from orchestrator.core.clock import Random, new_random, now
from orchestrator.core.errors import InvalidRequestError, RouterClosedError, StreamInterruptedError
from orchestrator.core.events import Event, Listener, Outcome, RequestEnded, RequestStarted
from orchestrator.core.messages import parse_messages, parse_response_format, parse_tool_choice, parse_tools
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.types import (
    Completion,
    Finished,
    Message,
    Request,
    ResponseFormat,
    Restarted,
    StreamEvent,
    TextDelta,
    Tool,
    ToolChoice,
)
from orchestrator.dispatch import Dispatcher
from orchestrator.pool import Pool
from orchestrator.providers._batches import Batch
from orchestrator.providers.base import BaseProvider
from orchestrator.recovery import recovered
from orchestrator.resilience.deadline import Watch
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.registry import resolve
from orchestrator.stream import LiveStream

if TYPE_CHECKING:
    from orchestrator.core.config import (
        BreakerPolicy,
        GenerationParams,
        HedgePolicy,
        LimitPolicy,
        RecoveryPolicy,
        RetryPolicy,
        Timeouts,
    )

__all__ = ["Router"]

_log = logging.getLogger("orchestrator")

Prompt = str | Sequence[Message | Mapping[str, Any]]
Tools = Sequence[Tool | Mapping[str, Any]]
Asked = tuple[
    Prompt, "GenerationParams | None", Tools | None, ToolChoice | str | Mapping[str, Any] | None,
    ResponseFormat | Mapping[str, Any] | None, str | None,
]
RecoveryMode = Literal["error", "restart", "continue"]
Shown = TypeVar("Shown")  # to the reader of a stream
Policy = TypeVar("Policy", "RetryPolicy", "BreakerPolicy", "Timeouts", "HedgePolicy", "RecoveryPolicy", "LimitPolicy")


class Router:
    """Routes prompts over providers: failover, retries, breakers, one deadline; plain and streamed alike.

    ``strategy`` is a name (``round-robin``, ``weighted``, ``random``, ``first-available``, ``least-latency``, or one
    registered by an entry point) or a :class:`RoutingStrategy`. ``retry``, ``breaker``, ``timeouts`` and ``limits`` are
    policies; what is left out has its defaults. ``listeners`` are called with every event; one that raises changes
    nothing.
    ``hedge``: a second attempt elsewhere when the first answer is late; None, the default, is never.
    ``recovery``, a policy or just its mode: what is done when a stream breaks after its first piece.
    ``failover_on_content_filter``: what one provider's content policy refused, another is asked.
    ``stream_plain_calls``: ``route`` and ``complete`` read a stream where the provider tells usage in it, so that the
    first-token and idle limits guard them too. ``seed`` makes jitter and random choices repeatable.
    """

    def __init__(
        self,
        strategy: str | RoutingStrategy = "least-latency",
        providers: Iterable[BaseProvider] = (),
        *,
        retry: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        timeouts: Timeouts | None = None,
        limits: LimitPolicy | None = None,
        listeners: Iterable[Listener] = (),
        hedge: HedgePolicy | None = None,
        recovery: RecoveryPolicy | RecoveryMode | None = None,
        failover_on_content_filter: bool = False,
        stream_plain_calls: bool = False,
        seed: int | None = None,
    ) -> None:
        self._random: Random = new_random(seed)
        self._timeouts = _policy("timeouts", timeouts, core.config.Timeouts)
        self._total = self._timeouts.total  # a field of a pydantic model is slow to look up
        recovery = core.config.RecoveryPolicy(mode=recovery) if isinstance(recovery, str) else recovery
        recovery = _policy("recovery", recovery, core.config.RecoveryPolicy)
        self._recovery = None if recovery.mode == "error" else recovery
        self._listeners = _callables(listeners)
        self._tell = self._emit if self._listeners else None
        self._strategy = resolve(strategy)
        self._strategy.random = self._random
        policy = _policy("retry", retry, core.config.RetryPolicy)
        hedging = None if hedge is None else _policy("hedge", hedge, core.config.HedgePolicy)
        self._pool = Pool(
            breaker=_policy("breaker", breaker, core.config.BreakerPolicy), retry=policy, random=self._random,
            emit=self._emit, timeouts=self._timeouts, hedge=hedging,
            limits=_policy("limits", limits, core.config.LimitPolicy), stream_plain=stream_plain_calls,
        )
        self._dispatcher = Dispatcher(
            self._pool, self._strategy, failover_on_content_filter=failover_on_content_filter, hedge=hedging
        )
        self._ids = itertools.count(1)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: Watch  # of that loop
        if isinstance(providers, BaseProvider):
            raise TypeError(f"providers is {type(providers).__name__}; expected a list: providers=[...]")
        for provider in providers:
            self.add_provider(provider)

    async def route(
        self, prompt: str, params: GenerationParams | None = None, *, timeout: float | None = None, priority: int = 0,
        session: str | None = None,
    ) -> str:
        """The text that answers ``prompt``; ``timeout`` seconds for everything, else ``Timeouts.total``.

        Where requests must wait for a provider, those of the smallest ``priority`` are served first.
        ``session`` names the conversation, for the strategy ``affinity``.
        Raises an :class:`OrchestratorError`: ``InvalidRequestError`` for the caller's fault, else the error that all
        attempts share, or ``AllProvidersFailedError``.
        """
        return (await self.complete(prompt, params, timeout=timeout, priority=priority, session=session)).text

    def route_stream(
        self, prompt: str, params: GenerationParams | None = None, *, timeout: float | None = None, priority: int = 0,
        session: str | None = None,
    ) -> AsyncGenerator[str, None]:
        """The same text in pieces, never of two answers; raises when it breaks for good, never ends early."""
        return self._events((prompt, params, None, None, None, session), timeout, priority, _texts, text_only=True)

    async def complete(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tools: Tools | None = None,
        tool_choice: ToolChoice | str | Mapping[str, Any] | None = None,
        response_format: ResponseFormat | Mapping[str, Any] | None = None,
        session: str | None = None,
    ) -> Completion:
        """The whole answer to a prompt or to a conversation (a list of messages), with all that is known about it.

        Messages, ``tools``, ``tool_choice`` and ``response_format`` are OpenAI's dicts or our own types; a provider
        that cannot carry one of them is not asked. Limits and errors are those of :meth:`route`.
        """
        request = self._request(False, prompt, params, tools, tool_choice, response_format, session)
        call = self._begin(request, timeout, priority)
        try:
            answer: Completion = await self._dispatcher.run(call)  # type: ignore[assignment]  # a plain request
        except BaseException as exc:
            self._failed(call, exc)
            raise
        if call.emit is not None:
            self._end(call, "answer", completion=answer)
        return answer

    def stream(
        self,
        prompt: Prompt,
        params: GenerationParams | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        tools: Tools | None = None,
        tool_choice: ToolChoice | str | Mapping[str, Any] | None = None,
        response_format: ResponseFormat | Mapping[str, Any] | None = None,
        session: str | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """The answer as typed events; the last one, ``Finished``, carries the :class:`Completion`.

        With ``recovery``, a :class:`Restarted` says that what came before it is void.
        """
        return self._events((prompt, params, tools, tool_choice, response_format, session), timeout, priority, iter)

    async def _events(
        self, asked: Asked, timeout: float | None, priority: int, show: Callable[[Batch], Iterable[Shown]], *,
        text_only: bool = False,
    ) -> AsyncGenerator[Shown, None]:
        request = self._request(True, *asked)
        call = self._begin(request, timeout, priority)
        call.text_only = text_only
        completion: Completion | None = None
        try:
            live: LiveStream = await self._dispatcher.run(call)  # type: ignore[assignment]  # a streamed request
            batches: LiveStream | AsyncGenerator[Batch, None] = live if self._recovery is None else recovered(
                self._recovery, self._dispatcher, call, live, text_only=text_only
            )
            try:
                async for batch in batches:
                    if isinstance(last := batch[-1], Finished):
                        completion = last.completion
                        if call.emit is not None:
                            self._end(call, "answer", completion=completion)
                    for shown in show(batch):
                        yield shown
            finally:
                await batches.aclose()
        except BaseException as exc:
            if completion is None:
                self._failed(call, exc)
            raise

    def add_provider(self, provider: BaseProvider) -> None:
        """Take in a provider; a name that is already there is a ``ValueError``."""
        self._check_open()
        self._pool.add(provider)

    async def remove_provider(self, name: str) -> None:
        """Let a provider go: it gets no new call, and is closed after its last one."""
        self._pool.remove(name)
        await self._pool.close_removed()

    async def update_providers(self, providers: Iterable[BaseProvider]) -> None:
        """Swap the whole pool at once; calls under way go on. Instances that stay keep their state."""
        self._check_open()
        self._pool.update(list(providers))
        await self._pool.close_removed()

    def isolate(self, name: str) -> None:
        """Take a provider out by hand: its breaker holds until :meth:`reset`."""
        self._pool.known(name).breaker.isolate()

    def reset(self, name: str) -> None:
        """Close a provider's breaker by hand, and forget what it has counted."""
        self._pool.known(name).breaker.reset()

    def snapshot(self) -> dict[str, ProviderSnapshot]:
        """Every provider's state at this moment, by name."""
        at = now()
        return {candidate.name: candidate.snapshot(at) for candidate in self._pool}

    @property
    def queued(self) -> int:
        """How many requests wait for a provider."""
        return len(self._pool.waiting)

    async def aclose(self, *, grace: float = 5.0) -> None:
        """Close every provider once; calls under way get ``grace`` seconds to end. Idempotent."""
        self._closed = True
        await self._pool.drain(grace)

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _request(  # noqa: PLR0917  # what was asked, in the order of ``Asked``
        self, stream: bool, prompt: Prompt, params: GenerationParams | None, tools: Tools | None,  # noqa: FBT001
        tool_choice: ToolChoice | str | Mapping[str, Any] | None,
        response_format: ResponseFormat | Mapping[str, Any] | None, session: str | None,
    ) -> Request:
        if params is not None and not isinstance(params, core.config.GenerationParams):
            raise InvalidRequestError(f"params is {type(params).__name__}; expected GenerationParams")
        if session is not None and not isinstance(session, str):
            raise InvalidRequestError(f"session is {type(session).__name__}; expected a text")
        if isinstance(prompt, str):
            if tools is None and tool_choice is None and response_format is None:
                return Request(prompt, params, stream, self._timeouts, session)  # by name it would cost as much again
            messages = None
        else:
            messages = parse_messages(prompt)
        return Request(
            prompt if isinstance(prompt, str) else None, params, messages=messages, tools=parse_tools(tools),
            tool_choice=parse_tool_choice(tool_choice), response_format=parse_response_format(response_format),
            stream=stream, timeouts=self._timeouts, session=session,
        )

    def _begin(self, request: Request, timeout: float | None, priority: int) -> Call:
        if self._closed:
            self._check_open()
        if timeout is None:
            timeout = self._total
        elif isinstance(timeout, bool) or not (isinstance(timeout, int | float) and timeout > 0):
            raise InvalidRequestError(f"timeout is {timeout!r}; expected a number of seconds above 0")
        if priority and not isinstance(priority, int):
            raise InvalidRequestError(f"priority is {priority!r}; expected an integer")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._watch = loop, Watch(loop)
        call = Call(request, next(self._ids), timeout, loop, self._watch, self._tell, priority)
        if call.emit is not None:
            self._emit(RequestStarted(call.started, call.id, self._strategy.name, request.stream, request))
        return call

    def _failed(self, call: Call, exc: BaseException) -> None:
        call.stop_waiting()
        if call.emit is not None:
            self._end(call, "error" if isinstance(exc, Exception) else "cancelled", error=exc)

    def _end(
        self, call: Call, outcome: Outcome, *, completion: Completion | None = None, error: BaseException | None = None
    ) -> None:
        at = call.loop.time()
        self._emit(RequestEnded(at, call.id, outcome, at - call.started, tuple(call.attempts), completion, error))

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001  # a listener of the user's
                _log.exception("listener %r failed on %s", listener, type(event).__name__)

    def _check_open(self) -> None:
        if self._closed:
            raise RouterClosedError("the router is closed; make a new one")


def _callables(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    given = tuple(listeners)
    for listener in given:
        if not callable(listener):
            raise TypeError(f"listeners holds {listener!r}; expected functions of one event")
    return given


def _texts(batch: Batch) -> Iterator[str]:
    for event in batch:
        if isinstance(event, TextDelta):
            yield event.text
        elif isinstance(event, Restarted):  # of a provider that is itself a router: what was said is void
            raise StreamInterruptedError("the provider began anew", partial=event.discarded) from event.error


def _policy(field: str, value: object, kind: type[Policy]) -> Policy:
    """The policy that was given, or its defaults."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise TypeError(f"{field} is {value!r}; expected {kind.__name__}(...) of: {', '.join(kind.model_fields)}")
    return value
