"""The modelled providers: real ``BaseProvider``s on the loop's clock, with queue, quotas and prompt cache."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from math import inf
from typing import Any

from orchestrator.core.types import Completion, Finished, Request, StreamEvent, TextDelta, Usage
from orchestrator.providers.base import BaseProvider
from orchestrator.simulation.model import ProviderModel
from orchestrator.simulation.nature import REFUSED, SILENT_FOR, Failure, Nature, Service, error_of
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.trace import traces_of
from orchestrator.simulation.traffic import CHARACTERS, Job, Traffic
from orchestrator.testing.loop import VirtualTimeLoop

__all__ = ["Ledger", "ModelledProvider", "World"]

_MILLION = 1e6
_TEXT = "Lorem ipsum dolor sit amet, " * 400
_ANSWER = "Lorem ipsum."


class Ledger:
    """What each request has cost on the wire, whoever answered it: by number of the request."""

    __slots__ = ("calls", "cost")

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.cost: list[float] = []


class _Quota:
    """A token bucket: ``per_minute``, of which ``burst`` seconds' worth may be used at once."""

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, per_minute: int, burst: float) -> None:
        self._per_second = per_minute / 60.0
        self._most = max(1.0, self._per_second * burst)
        self._left = self._most
        self._at = 0.0

    def wait(self, at: float, amount: float) -> float:
        """Seconds until so much may be taken; more than the bucket holds counts as all it holds."""
        self._left = min(self._most, self._left + (at - self._at) * self._per_second)
        self._at = at
        return max(0.0, (min(amount, self._most) - self._left) / self._per_second)

    def take(self, amount: float) -> None:
        """After ``wait`` said 0."""
        self._left -= amount


class _Visit:
    """One call that is being served; ``ends`` is the loop time of its last token, or of its break."""

    __slots__ = ("begins", "broken", "cached", "cost", "ends", "job", "service", "tokens", "whole")

    def __init__(self, job: Job, tokens: int, cached: int, begins: float, service: Service) -> None:
        _, total, breaks = service
        self.job = job
        self.tokens = tokens
        self.cached = cached
        self.begins = begins
        self.service = service
        self.broken = broken = breaks < total
        self.ends = begins + (breaks if broken else total)
        self.cost = 0.0
        self.whole = False

    def written(self, at: float) -> int:
        """Tokens of the answer there are at this loop time."""
        first, total, _ = self.service
        if at < self.begins + first or total <= first:
            return 0
        return min(self.tokens, int(self.tokens * (at - self.begins - first) / (total - first) + 1e-6))


class ModelledProvider(BaseProvider):
    """One provider of a :class:`World`. ``nature`` tells what it would do to a call, ``calls`` how many it has got.

    ``busy`` calls are being served and ``queued`` wait. Plain answers tell ``time_to_first_token`` (seconds from the
    call at this provider), which no caller of a real one could see.
    """

    streams_usage = True

    def __init__(self, model: ProviderModel, nature: Nature, ledger: Ledger, index: int) -> None:
        super().__init__(model.provider_config(model.name))
        self.model = model
        self.nature = nature
        self.index = index
        self.calls = 0
        self.busy = 0
        self._ledger = ledger
        self._queue: deque[asyncio.Future[None]] = deque()
        self._capacity = inf if model.capacity is None else model.capacity
        self._room = inf if model.queue is None else model.queue
        self._rpm = None if model.rpm is None else _Quota(model.rpm, model.quota_burst_s)
        self._tpm = None if model.tpm is None else _Quota(model.tpm, model.quota_burst_s)
        prices = model.prices
        self._input, self._output = prices.input / _MILLION, prices.output / _MILLION
        self._cached = self._input if prices.cached_input is None else prices.cached_input / _MILLION
        self._forgets = model.prompt_cache is None and model.cold_start is None
        limits = model.queue, model.rpm, model.tpm, model.context_window
        self._never_refuses = all(limit is None for limit in limits)
        self._cut_short = model.provider_config(model.name).timeout is not None  # by the router, at some time
        self._warm: dict[int, tuple[float, int]] = {}  # by session: until when, how many tokens
        self._idle_since = 0.0

    @property
    def queued(self) -> int:
        """Calls that wait for their turn."""
        return len(self._queue)

    async def complete(self, request: Request) -> Completion:
        """See :class:`BaseProvider`."""
        loop = asyncio.get_running_loop()
        called = loop.time()
        visit = self._called(loop, request)
        if not isinstance(visit, _Visit):
            visit = await visit
        try:
            await _until(loop, visit.ends)
            if visit.broken:
                await self._break(loop)
            visit.whole = True
        finally:
            self._leave(visit, loop.time())
        return Completion(
            _ANSWER, usage=Usage(visit.job.prompt_tokens, visit.tokens, visit.cached), cost=visit.cost,
            time_to_first_token=visit.begins - called + visit.service.first_token,
        )

    async def open_stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """See :class:`BaseProvider`; pieces come often enough not to look silent, and no oftener.

        The last one before the end holds the rest already, where nobody could want to know how far the answer was.
        """
        loop = asyncio.get_running_loop()
        visit = self._called(loop, request)
        if not isinstance(visit, _Visit):
            visit = await visit
        told, every = 0, request.timeouts.idle / 2
        whole_before_the_end = not (visit.broken or self._cut_short)
        try:
            when, ends = visit.begins + visit.service.first_token, visit.ends
            while when < ends:
                await _until(loop, when)
                last = whole_before_the_end and when + every >= ends
                new = visit.tokens - told if last else max(1, visit.written(when) - told)
                yield TextDelta(_text(new))
                told += new
                when += every
            await _until(loop, ends)
            if visit.broken:
                await self._break(loop)
            visit.whole = True
        finally:
            self._leave(visit, loop.time())
        if visit.tokens > told:
            yield TextDelta(_text(visit.tokens - told))
        usage = Usage(visit.job.prompt_tokens, visit.tokens, visit.cached)
        yield Finished(Completion("", usage=usage, cost=visit.cost))

    def _called(self, loop: asyncio.AbstractEventLoop, request: Request) -> _Visit | Coroutine[Any, Any, _Visit]:
        """The call under way, or what it has to wait for: its turn, or its failure."""
        job, tokens = _asked(request)
        self.calls += 1
        if job.number >= 0:
            self._ledger.calls[job.number] += 1
        at = loop.time()
        nature = self.nature
        luck = nature.luck(job, job.tried(self.index))
        failure = nature.failure(luck, at)
        if failure is None and not self._never_refuses:
            failure = self._refusal(job, tokens, at)
        if failure is not None:
            return self._failing(loop, at, failure)
        if self.busy >= self._capacity:
            return self._waiting(loop, job, tokens, luck)
        self.busy += 1
        return self._begin(job, tokens, luck, at)

    async def _failing(self, loop: asyncio.AbstractEventLoop, at: float, failure: Failure) -> _Visit:
        await _until(loop, at + failure.after)
        raise error_of(failure, self.name)

    async def _waiting(self, loop: asyncio.AbstractEventLoop, job: Job, tokens: int, luck: int) -> _Visit:
        await self._turn(loop)
        return self._begin(job, tokens, luck, loop.time())

    def _refusal(self, job: Job, tokens: int, at: float) -> Failure | None:
        """What the provider's own limits say to a call; what is admitted is taken out of its quotas."""
        model = self.model
        if model.context_window is not None and job.prompt_tokens + tokens > model.context_window:
            return Failure(413, model.refuses_in_s)
        if self.busy >= self._capacity and len(self._queue) >= self._room:
            return Failure(model.full_status, model.refuses_in_s)
        rpm, tpm = self._rpm, self._tpm
        if rpm is None and tpm is None:
            return None
        wait = 0.0 if rpm is None else rpm.wait(at, 1.0)
        if tpm is not None:
            wait = max(wait, tpm.wait(at, job.prompt_tokens + tokens))
        if wait > 0.0:
            return Failure(429, model.refuses_in_s, wait)
        if rpm is not None:
            rpm.take(1.0)
        if tpm is not None:
            tpm.take(job.prompt_tokens + tokens)
        return None

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait in line; whoever leaves hands over its place."""
        waiting = loop.create_future()
        self._queue.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._pass_on()  # the place came together with the cancellation
            else:
                self._queue.remove(waiting)
            raise

    def _pass_on(self) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return
        self.busy -= 1

    def _begin(self, job: Job, tokens: int, luck: int, at: float) -> _Visit:
        service = self.nature.service(luck, at, tokens)
        if self._forgets:
            return _Visit(job, tokens, 0, at, service)
        model = self.model
        cached = 0
        if model.prompt_cache is not None and job.session >= 0:
            cached = self._cached_tokens(job, at)
        if cached or model.cold_start is not None:
            first = service.first_token
            if cached and model.prompt_cache is not None:
                first *= 1.0 - (1.0 - model.prompt_cache.first_token_factor) * cached / job.prompt_tokens
            cold = model.cold_start
            if cold is not None and self.busy == 1 and at - self._idle_since >= cold.after_idle_s:
                first += cold.extra_s
            service = Service(first, service.total - service.first_token + first, service.breaks)
        return _Visit(job, tokens, cached, at, service)

    def _cached_tokens(self, job: Job, at: float) -> int:
        until, tokens = self._warm.get(job.session, (0.0, 0))
        return min(tokens, job.prompt_tokens) if at < until else 0

    def _leave(self, visit: _Visit, at: float) -> None:
        """Free the place; what was read and written is paid, whether or not anybody waited for it."""
        if self._queue:
            self._pass_on()
        else:
            self.busy -= 1
        self._idle_since = at
        job = visit.job
        tokens = visit.tokens if visit.whole else visit.written(at)
        cached = visit.cached
        visit.cost = cost = (
            (job.prompt_tokens - cached) * self._input + cached * self._cached + tokens * self._output
        )
        if job.number >= 0:
            self._ledger.cost[job.number] += cost
        if self._forgets:
            return
        cache = self.model.prompt_cache
        if cache is not None and job.session >= 0 and job.prompt_tokens >= cache.min_tokens:
            self._warm[job.session] = (at + cache.keeps_s, job.prompt_tokens + tokens)

    async def _break(self, loop: asyncio.AbstractEventLoop) -> None:
        """The answer stops on the way: by silence, or with a broken connection."""
        if self.nature.silent(loop.time()):
            await _until(loop, loop.time() + SILENT_FOR)
        raise error_of(Failure(REFUSED, 0.0), self.name)


def _until(loop: asyncio.AbstractEventLoop, when: float) -> asyncio.Future[None]:
    """``asyncio.sleep``, at a quarter of its price on the loop made for this."""
    if isinstance(loop, VirtualTimeLoop):
        return loop.sleep_until(when)
    future: asyncio.Future[None] = loop.create_future()
    loop.call_at(when, _wake, future)
    return future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _text(tokens: int) -> str:
    length = tokens * CHARACTERS
    return (_TEXT if length <= len(_TEXT) else _TEXT * (length // len(_TEXT) + 1))[:length]


def _asked(request: Request) -> tuple[Job, int]:
    """The job of a request, and how many tokens are wanted: fewer when it continues a broken answer."""
    prompt = request.prompt
    if type(prompt) is Job:
        job, tokens = prompt, prompt.completion_tokens
    else:
        job = next((m.content for m in request.messages if type(m.content) is Job), None) or Job.foreign(
            prompt or " ".join(message.text for message in request.messages), 0
        )
        there = sum(len(message.text) for message in request.messages if message.role == "assistant")
        tokens = max(1, job.completion_tokens - there // CHARACTERS)
    if request.params is not None and request.params.max_tokens is not None:
        tokens = min(tokens, request.params.max_tokens)
    return job, tokens


class World:
    """A scenario come alive for one run: its providers, its traffic, its ledger. Everything follows from the seed."""

    def __init__(self, scenario: Scenario, seed: int | None = None) -> None:
        self.scenario = scenario
        self.seed = scenario.seed if seed is None else seed
        self.ledger = Ledger()
        traces = traces_of(scenario)
        self.providers: list[ModelledProvider] = []
        for index, model in enumerate(scenario.each_provider()):
            nature = Nature(model, seed=self.seed, index=index, trace=traces.get(model.name))
            self.providers.append(ModelledProvider(model, nature, self.ledger, index))
        self.traffic = Traffic(scenario.traffic, seed=self.seed, until=scenario.duration_s)
