"""Models of other routers, to be driven by ``orchestrator.simulation`` in place of our own: rules, not code, of theirs.

The real ones read the machine's clock and take a millisecond of processor per call, so they cannot run in virtual time.
What is modelled was read in the versions named below; ``check_strategies.py`` asks the real litellm the same small
questions. Where a rule was unclear, the model has what is better for the rival: a caller's deadline over everything
(they have none), time limits of an attempt as our own, and a count of calls in flight that never leaks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from math import inf
from random import Random

from orchestrator import Completion, Finished, Request, StreamEvent, Timeouts
from orchestrator.core.errors import ConnectionFailedError, OrchestratorError, RateLimitError
from orchestrator.core.errors import TimeoutError as LimitError
from orchestrator.simulation import ModelledProvider, RouterLike, World

LITELLM = "1.106.2"
SEED = "0.9.1"


class _Rival:
    """What all have: attempts under our time limits, within the caller's deadline."""

    def __init__(self, world: World) -> None:
        self.providers = list(world.providers)
        self.random = Random(world.seed)
        self.timeouts = world.scenario.router.timeouts or Timeouts()

    async def complete(self, prompt: str, /, *, timeout: float | None = None, priority: int = 0) -> Completion:
        async with aclosing(self._by_the_deadline(prompt, timeout, stream=False)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.completion
        raise AssertionError("an answer has an end")

    def stream(
        self, prompt: str, /, *, timeout: float | None = None, priority: int = 0
    ) -> AsyncGenerator[StreamEvent, None]:
        return self._by_the_deadline(prompt, timeout, stream=True)

    async def aclose(self) -> None:
        pass

    def _by_the_deadline(
        self, prompt: str, timeout: float | None, *, stream: bool
    ) -> AsyncGenerator[StreamEvent, None]:
        began = now()
        request = Request(prompt, stream=stream, timeouts=self.timeouts)
        return self.events(request, began, began + (self.timeouts.total if timeout is None else timeout))

    def events(self, request: Request, began: float, deadline: float) -> AsyncGenerator[StreamEvent, None]:
        raise NotImplementedError

    async def attempt(
        self, provider: ModelledProvider, request: Request, began: float, deadline: float
    ) -> AsyncGenerator[StreamEvent, None]:
        """One call: its events, or the error it ends with."""
        called = now()
        if not request.stream:
            answer = await limited(provider.complete(request), min(called + self.timeouts.attempt, deadline))
            if answer.time_to_first_token is not None:
                answer.time_to_first_token += called - began
            answer.provider = provider.name
            yield Finished(answer)
            return
        wait = self.timeouts.first_token
        async with aclosing(provider.open_stream(request)) as events:
            while (event := await limited(anext(events, None), min(now() + wait, deadline))) is not None:
                wait = self.timeouts.idle
                if isinstance(event, Finished):
                    event.completion.provider = provider.name
                yield event


class LiteLLM(_Rival):
    """litellm.Router 1.106.2 over one group of deployments; ``pick`` is its routing strategy. A model of:

    * ``num_retries`` 2 (its default): up to three attempts, each to a deployment picked anew, without a wait: it sleeps
      only when no other deployment is healthy, and then it raises before (``should_retry_this_error``). A 400, 402,
      404 or 413 is not retried; after a 401 the retry skips that deployment.
    * cooldown per deployment, timer only: Retry-After if the error has one, else 5 s. A 429 or a status that is not to
      be retried (401, 402, 404) at once; otherwise when more than half of this minute's calls failed, of at least five.
      The minute is a window of 60 s from the first count, for successes and for failures apart.
    * a stream that breaks after its first piece ends with that error: without fallback groups nothing takes over.
    """

    def __init__(self, world: World, pick: Callable[[LiteLLM], Pick]) -> None:
        super().__init__(world)
        self.deployments = [Deployment(provider) for provider in self.providers]
        self.picks = pick(self)

    def healthy(self) -> list[Deployment]:
        at = now()
        return [each for each in self.deployments if each.cooled_until <= at]

    async def events(self, request: Request, began: float, deadline: float) -> AsyncGenerator[StreamEvent, None]:
        skipped: set[str] = set()
        for attempts_left in (2, 1, 0):
            told = False
            deployment = None
            try:
                deployment = self._chosen(skipped, request)
                async with aclosing(self._called(deployment, request, began, deadline)) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except OrchestratorError as error:
                status = status_of(error)
                if told or not attempts_left or now() >= deadline or not self._again(status):
                    raise
                if deployment is not None and not retried(status):
                    skipped.add(deployment.name)

    def _again(self, status: int) -> bool:
        if not retried(status) and status not in (401, 403):
            return False
        return len(self.deployments) > 1 and bool(self.healthy())

    def _chosen(self, skipped: set[str], request: Request) -> Deployment:
        healthy = self.healthy()
        left = [each for each in healthy if each.name not in skipped] or healthy
        chosen = self.picks.pick(left, request) if left else None
        if chosen is None:
            raise RateLimitError("no deployments available", status_code=429)
        return chosen

    async def _called(
        self, deployment: Deployment, request: Request, began: float, deadline: float
    ) -> AsyncGenerator[StreamEvent, None]:
        self.picks.begun(deployment)
        deployment.in_flight += 1
        called, first = now(), None
        try:
            async with aclosing(self.attempt(deployment.provider, request, began, deadline)) as events:
                async for event in events:
                    first = now() - called if first is None else first
                    if isinstance(event, Finished):
                        deployment.successes.add()
                        self.picks.succeeded(
                            deployment, now() - called, first if request.stream else None, event.completion
                        )
                    yield event
        except OrchestratorError as error:
            deployment.failed(error)
            self.picks.failed(deployment, error)
            raise
        finally:
            deployment.in_flight -= 1

    def snapshot(self) -> dict[str, Cooldown]:
        at = now()
        return {each.name: Cooldown("open" if each.cooled_until > at else "closed") for each in self.deployments}


@dataclass
class Cooldown:
    """Looks like a breaker's state in ``Router.snapshot()``."""

    breaker: str


class Deployment:
    """One row of the model list, with what litellm counts of it. ``weight, rpm, tpm`` are what the router is told."""

    def __init__(self, provider: ModelledProvider) -> None:
        self.provider = provider
        self.name = provider.name
        self.weight = provider.config.weight
        self.rpm = provider.config.rpm_limit or inf
        self.tpm = provider.config.tpm_limit or inf
        self.in_flight = 0
        self.cooled_until = -inf
        self.successes, self.failures = Window(), Window()

    def failed(self, error: OrchestratorError) -> None:
        self.failures.add()
        status = status_of(error)
        if status == CONNECTION or (400 <= status < 500 and status not in (401, 402, 404, 408, 429)):
            return
        failed, total = self.failures.count, self.failures.count + self.successes.count
        if status == 429 or not retried(status) or (total >= 5 and failed / total > 0.5):
            seconds = 5.0 if error.retry_after is None else error.retry_after
            if seconds > 1e-9:
                self.cooled_until = now() + seconds


class Window:
    """A count that is forgotten 60 s after its first."""

    def __init__(self) -> None:
        self._count = 0
        self._until = -inf

    def add(self) -> None:
        if now() > self._until:
            self._count, self._until = 0, now() + 60
        self._count += 1

    @property
    def count(self) -> int:
        return self._count if now() <= self._until else 0


class Pick:
    """A routing strategy of litellm, and what it learns."""

    def __init__(self, router: LiteLLM) -> None:
        self.random = router.random

    def pick(self, healthy: Sequence[Deployment], request: Request) -> Deployment | None:
        raise NotImplementedError

    def begun(self, deployment: Deployment) -> None:
        pass

    def succeeded(self, deployment: Deployment, latency: float, first: float | None, answer: Completion) -> None:
        pass

    def failed(self, deployment: Deployment, error: OrchestratorError) -> None:
        pass


class SimpleShuffle(Pick):
    """``simple-shuffle``, its default: a random deployment, by weight."""

    def pick(self, healthy: Sequence[Deployment], request: Request) -> Deployment | None:
        return self.random.choices(healthy, [each.weight for each in healthy])[0]


class LeastBusy(Pick):
    """``least-busy``: the fewest calls in flight, the first of the list among equals."""

    def pick(self, healthy: Sequence[Deployment], request: Request) -> Deployment | None:
        return min(healthy, key=lambda each: each.in_flight)


class LatencyBased(Pick):
    """``latency-based-routing``: the least mean of the last ten samples, a random one among equals.

    A sample is seconds per completion token; for streamed requests, once there is one, seconds to the first token. A
    time-out counts as a sample of 1000, any other failure as none. Who has no sample has a 0, which stays among its ten
    samples (once anybody has any). Limits told are kept by counting this minute's successes.
    """

    def __init__(self, router: LiteLLM) -> None:
        super().__init__(router)
        self.latency: dict[str, deque[float]] = {}
        self.first: dict[str, deque[float]] = {}
        self.minute: dict[tuple[str, int], list[int]] = {}

    def pick(self, healthy: Sequence[Deployment], request: Request) -> Deployment | None:
        if self.latency:
            for each in healthy:
                if each.name not in self.latency:
                    self.latency[each.name] = deque([0.0], maxlen=10)
        candidates = []
        for each in healthy:
            tokens, calls = self.minute.get((each.name, minute()), (0, 0))
            if tokens + prompt_tokens(request) <= each.tpm and calls + 1 <= each.rpm:
                first = self.first.get(each.name) if request.stream else None
                samples = first or self.latency.get(each.name) or (0.0,)
                candidates.append((sum(samples) / len(samples), each))
        least = min((latency for latency, _ in candidates), default=None)
        return self.random.choice([each for latency, each in candidates if latency <= least]) if candidates else None

    def succeeded(self, deployment: Deployment, latency: float, first: float | None, answer: Completion) -> None:
        usage = answer.usage
        self._sample(self.latency, deployment, latency / usage.completion_tokens)
        if first is not None:
            self._sample(self.first, deployment, first)
        count = self.minute.setdefault((deployment.name, minute()), [0, 0])
        count[0] += usage.prompt_tokens + usage.completion_tokens
        count[1] += 1

    def failed(self, deployment: Deployment, error: OrchestratorError) -> None:
        if isinstance(error, LimitError):
            self._sample(self.latency, deployment, 1000.0)

    def _sample(self, samples: dict[str, deque[float]], deployment: Deployment, value: float) -> None:
        samples.setdefault(deployment.name, deque(maxlen=10)).append(value)


class UsageBased(Pick):
    """``usage-based-routing-v2``: the fewest tokens answered this minute (of the clock), a random one among equals.

    Limits told are kept: tokens by what was answered and this prompt, requests by what was begun; one call before the
    limit a deployment is left out already.
    """

    def __init__(self, router: LiteLLM) -> None:
        super().__init__(router)
        self.tokens: dict[tuple[str, int], int] = {}
        self.calls: dict[tuple[str, int], int] = {}

    def pick(self, healthy: Sequence[Deployment], request: Request) -> Deployment | None:
        candidates = []
        for each in healthy:
            tokens, calls = self.tokens.get((each.name, minute()), 0), self.calls.get((each.name, minute()))
            if tokens + prompt_tokens(request) <= each.tpm and (calls is None or calls + 1 < each.rpm):
                candidates.append((tokens, each))
        least = min((tokens for tokens, _ in candidates), default=None)
        return self.random.choice([each for tokens, each in candidates if tokens == least]) if candidates else None

    def begun(self, deployment: Deployment) -> None:
        key = deployment.name, minute()
        self.calls[key] = self.calls.get(key, 0) + 1

    def succeeded(self, deployment: Deployment, latency: float, first: float | None, answer: Completion) -> None:
        key, usage = (deployment.name, minute()), answer.usage
        self.tokens[key] = self.tokens.get(key, 0) + usage.prompt_tokens + usage.completion_tokens


class BestAvailable(_Rival):
    """``best-available`` of multi-llm-orchestrator 0.9.1. A model of:

    * the healthiest group first (healthy, degraded, unhealthy), in it the least mean latency of the last 100 successes
      (none yet: as infinitely slow); then, after whatever error, the next of the list, round until each had its turn.
      No retry, breaker or pause.
    * health: "recent" errors, those of the last 60 s when the last one came, divided by all requests ever: 0.3 and more
      is degraded, 0.6 unhealthy; so is degraded who takes twice its own mean of all time. Below five: healthy.
    * a stream that breaks goes on with the next provider's text: what the caller gets is no answer, and is counted as
      the error.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.health = {provider.name: Health() for provider in self.providers}

    async def events(self, request: Request, began: float, deadline: float) -> AsyncGenerator[StreamEvent, None]:
        selected = self.providers.index(self.selected())
        last: OrchestratorError | None = None
        for step in range(len(self.providers)):
            provider = self.providers[(selected + step) % len(self.providers)]
            called, told = now(), False
            try:
                async with aclosing(self.attempt(provider, request, began, deadline)) as events:
                    async for event in events:
                        told = True
                        if isinstance(event, Finished):
                            self.health[provider.name].succeeded(now() - called)
                        yield event
                return
            except OrchestratorError as error:
                self.health[provider.name].failed()
                if told or now() >= deadline:
                    raise
                last = error
        assert last is not None
        raise last

    def selected(self) -> ModelledProvider:
        return min(self.providers, key=lambda provider: self.health[provider.name].rank())


class Health:
    """What the seed counts of a provider."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: deque[float] = deque()
        self.window: deque[float] = deque(maxlen=100)
        self.sum, self.successes = 0.0, 0

    def succeeded(self, latency: float) -> None:
        self.requests += 1
        self.successes += 1
        self.sum += latency
        self.window.append(latency)

    def failed(self) -> None:
        self.requests += 1
        self.errors.append(now())
        while self.errors[0] < now() - 60:
            self.errors.popleft()

    def rank(self) -> tuple[int, float]:
        rolling = sum(self.window) / len(self.window) if self.window else inf
        if self.requests < 5:
            return 0, rolling
        share = len(self.errors) / self.requests
        if share >= 0.3:
            return (2 if share >= 0.6 else 1), rolling
        slow = self.requests >= 20 and self.window and rolling > 2 * self.sum / self.successes
        return (1 if slow else 0), rolling


CONNECTION = -1


def status_of(error: OrchestratorError) -> int:
    """The status litellm's exception would have: 408 for a time limit, 500 for what has none of its own."""
    if isinstance(error, LimitError):
        return 408
    if isinstance(error, ConnectionFailedError):
        return 500
    return error.status_code or 500


def retried(status: int) -> bool:
    """litellm.should_retry."""
    return status in (408, 409, 429) or status >= 500


def now() -> float:
    return asyncio.get_running_loop().time()


def minute() -> int:
    return int(now() // 60)


def prompt_tokens(request: Request) -> int:
    return getattr(request.prompt, "prompt_tokens", 0)


async def limited(awaitable, until: float):
    try:
        async with asyncio.timeout_at(until):
            return await awaitable
    except TimeoutError as error:
        raise LimitError("modelled") from error


def litellm_router(pick: type[Pick]) -> Callable[..., RouterLike]:
    return lambda world, strategy, *, listeners=(): LiteLLM(world, pick)


def seed_router(world: World, strategy: object, *, listeners: Iterable[object] = ()) -> RouterLike:
    return BestAvailable(world)


RIVALS: dict[str, tuple[Callable[..., RouterLike], str]] = {
    f"litellm {name}": (
        litellm_router(pick), f"litellm.Router {LITELLM}, {name} (a model, checked against the real one on small cases)"
    )
    for name, pick in {
        "simple-shuffle": SimpleShuffle, "least-busy": LeastBusy, "latency-based-routing": LatencyBased,
        "usage-based-routing-v2": UsageBased,
    }.items()
} | {"seed best-available": (seed_router, f"multi-llm-orchestrator {SEED}, best-available (a model, read only)")}
