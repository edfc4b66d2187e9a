"""The same router for scripts and notebooks: blocking verbs, an event loop of its own in a thread of its own.

It works where a loop is already running (a notebook cell), because it never uses that one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orchestrator.core.errors import RouterClosedError
from orchestrator.core.events import Listener
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.types import Completion, ResponseFormat, StreamEvent, ToolChoice
from orchestrator.providers.base import BaseProvider
from orchestrator.router import Prompt, RecoveryMode, Tools
from orchestrator.router import Router as AsyncRouter
from orchestrator.strategies.base import RoutingStrategy

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

T = TypeVar("T")


class Router:
    """Blocking façade of :class:`orchestrator.Router`: same arguments, same verbs, ``with`` instead of ``async with``.

    May be used from several threads. Ctrl-C while waiting cancels the call.
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
        self._router = AsyncRouter(
            strategy, providers, retry=retry, breaker=breaker, timeouts=timeouts, limits=limits, listeners=listeners,
            hedge=hedge, recovery=recovery, failover_on_content_filter=failover_on_content_filter,
            stream_plain_calls=stream_plain_calls, seed=seed,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()  # a garbage collection may end a stream in whatever holds it
        self._closed = False

    def route(
        self, prompt: str, params: GenerationParams | None = None, *, timeout: float | None = None, priority: int = 0,
        session: str | None = None,
    ) -> str:
        """The text that answers ``prompt``."""
        return self._run(self._router.route(prompt, params, timeout=timeout, priority=priority, session=session))

    def route_stream(
        self, prompt: str, params: GenerationParams | None = None, *, timeout: float | None = None, priority: int = 0,
        session: str | None = None,
    ) -> Iterator[str]:
        """The same text in pieces, never of two answers."""
        return self._iterate(self._router.route_stream(
            prompt, params, timeout=timeout, priority=priority, session=session
        ))

    def complete(
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
        """The whole answer, with all that is known about it."""
        return self._run(self._router.complete(
            prompt, params, timeout=timeout, priority=priority, tools=tools, tool_choice=tool_choice,
            response_format=response_format, session=session,
        ))

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
    ) -> Iterator[StreamEvent]:
        """The answer as typed events; the last one carries the completion."""
        return self._iterate(self._router.stream(
            prompt, params, timeout=timeout, priority=priority, tools=tools, tool_choice=tool_choice,
            response_format=response_format, session=session,
        ))

    def add_provider(self, provider: BaseProvider) -> None:
        """Take in a provider."""
        self._run(self._call(self._router.add_provider, provider))

    def remove_provider(self, name: str) -> None:
        """Let a provider go."""
        self._run(self._router.remove_provider(name))

    def update_providers(self, providers: Iterable[BaseProvider]) -> None:
        """Swap the whole pool."""
        self._run(self._router.update_providers(providers))

    def isolate(self, name: str) -> None:
        """Take a provider out by hand, until :meth:`reset`."""
        self._run(self._call(self._router.isolate, name))

    def reset(self, name: str) -> None:
        """Close a provider's breaker by hand, and forget what it has counted."""
        self._run(self._call(self._router.reset, name))

    def snapshot(self) -> dict[str, ProviderSnapshot]:
        """Every provider's state, by name."""
        return self._run(self._call(self._router.snapshot))

    @property
    def queued(self) -> int:
        """How many requests wait for a provider."""
        return self._router.queued

    def close(self, *, grace: float = 5.0) -> None:
        """Close every provider and stop the thread; calls under way get ``grace`` seconds to end. Idempotent."""
        if self._closed:
            return
        with suppress(RouterClosedError):  # another thread was faster
            self._run(self._router.aclose(grace=grace))
        with self._starting:
            self._closed = True
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    async def _call(func: Any, *args: Any) -> Any:  # noqa: ANN401  # runs any plain method inside the loop's thread
        return func(*args)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("called in the router's own thread, say by a listener: it would wait for itself")
        future = self._submit(coroutine)
        try:
            return self._wait(future)
        except CancelledError:
            raise RouterClosedError("the router was closed before the call ended") from None
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread: the call must not go on behind its back
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._starting:
            if self._closed:
                coroutine.close()
                raise RouterClosedError("the router is closed; make a new one")
            return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())

    def _wait(self, future: Future[T]) -> T:
        return future.result()

    def _iterate(self, pieces: AsyncGenerator[T, None]) -> Iterator[T]:
        turn = asyncio.Lock()  # a read that was interrupted unwinds first
        try:
            while (piece := self._run(_next(pieces, turn))) is not None:
                yield piece
        finally:
            if not self._closed:
                # A garbage collection in the router's own thread may end this, and must not wait for that thread.
                finish = self._submit if threading.current_thread() is self._thread else self._run
                finish(_close(pieces, turn))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="orchestrator", daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which cancels, at the end, what is still under way
        runner.get_loop().run_forever()


async def _next(pieces: AsyncGenerator[T, None], turn: asyncio.Lock) -> T | None:
    async with turn:
        return await anext(pieces, None)


async def _close(pieces: AsyncGenerator[T, None], turn: asyncio.Lock) -> None:
    async with turn:
        await pieces.aclose()
