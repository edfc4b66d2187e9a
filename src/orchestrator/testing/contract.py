"""The promises a provider makes to a router, as tests that anybody can run against a provider of their own.

::

    class TestMyProvider(ProviderContract):
        def provider(self):
            return MyProvider(ProviderConfig(name="mine", api_key="...", max_retries=0))

needs pytest and pytest-asyncio. Each hook given beside ``provider`` unlocks more tests; the others are skipped.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar, get_args

import httpx
import pytest

from orchestrator.core.config import RetryPolicy
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedResponseError,
    OrchestratorError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from orchestrator.core.types import (
    Completion,
    Finished,
    FinishReason,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.router import Router
from orchestrator.testing._features import MARKERS, request_for
from orchestrator.testing.recorder import Recorder

__all__ = ["ProviderContract"]

PROMPT = "Say hello"
LIMIT = 30.0  # seconds for one test
CALLERS = 8

T = TypeVar("T")


class ProviderContract:
    """Subclass it; a new object is made for each test. Hooks that return None skip the tests that need them."""

    pytestmark = pytest.mark.asyncio

    refuses_by_itself = True
    """``complete`` refuses what ``unsupported`` names. False: the provider leaves that to the router."""

    def provider(self) -> BaseProvider:
        """A new provider whose service answers."""
        raise NotImplementedError(f"{type(self).__name__} must define provider()")

    def failing_provider(self, status: int) -> BaseProvider | None:  # noqa: ARG002  # for those who override it
        """A new provider whose service answers everything with this HTTP status, or fails in that sense."""
        return None

    def garbage_provider(self) -> BaseProvider | None:
        """A new provider whose service answers with something that is no answer."""
        return None

    def hanging_provider(self) -> BaseProvider | None:
        """A new provider whose service takes requests and never answers."""
        return None

    def slow_provider(self) -> BaseProvider | None:
        """A new provider whose service takes minutes to stream an answer of several pieces."""
        return None

    def provider_with_client(self, client: httpx.AsyncClient) -> BaseProvider | None:  # noqa: ARG002  # as above
        """A new provider that uses this HTTP client."""
        return None

    def expected(self, prompt: str) -> str | None:  # noqa: ARG002  # as above
        """What the service answers to a prompt, where that is known."""
        return None

    def connections(self) -> int | None:
        """How many connections the service has open now."""
        return None

    def sent(self) -> Sequence[str] | None:
        """The bodies of all requests for an answer that the service has received."""
        return None

    # Answers

    async def test_a_prompt_is_answered_with_text_in_every_way(self) -> None:
        """All four verbs give the same kind of answer, and the same answer where it is known."""
        async with _using(self.provider()) as provider:
            texts = {
                "generate": await provider.generate(PROMPT),
                "generate_stream": await _joined(provider, PROMPT),
                "complete": (await provider.complete(Request(PROMPT))).text,
                "open_stream": (await _streamed(provider, PROMPT)).text,
            }
        for verb, text in texts.items():
            _expect(isinstance(text, str) and text != "", f"{verb} gave {text!r}, not a text")
            known = self.expected(PROMPT)
            _expect(known is None or text == known, f"{verb} gave {text!r}, not {known!r}")

    async def test_a_completion_tells_why_it_finished_and_counts_tokens(self) -> None:
        """``finish_reason`` is one of ours; ``usage`` is None or not negative."""
        async with _using(self.provider()) as provider:
            for work in _both_ways(provider):
                completion = await work
                reason, usage = completion.finish_reason, completion.usage
                _expect(reason in get_args(FinishReason), f"finish_reason is {reason!r}")
                _expect(usage is None or isinstance(usage, Usage), f"usage is {usage!r}")
                if usage is not None:
                    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
                    _expect(min(counts) >= 0, f"usage counts below zero: {usage!r}")

    async def test_concurrent_calls_get_each_their_own_answer(self) -> None:
        """Nothing of one call is kept on the provider for another to find."""
        prompts = [f"{PROMPT} number {number}" for number in range(CALLERS)]
        async with _using(self.provider()) as provider:
            plain = await asyncio.gather(*(provider.generate(prompt) for prompt in prompts))
            streamed = await asyncio.gather(*(_joined(provider, prompt) for prompt in prompts))
        for prompt, *texts in zip(prompts, plain, streamed, strict=True):
            known = self.expected(prompt)
            for text in texts:
                _expect(bool(text), f"{prompt!r} got an empty answer")
                _expect(known is None or text == known, f"{prompt!r} got {text!r}, not {known!r}")

    async def test_a_router_gets_answers_from_it(self) -> None:
        """Plain and streamed, with a history without contradictions that holds no key."""
        recorder = Recorder()
        provider = self.provider()
        async with _using(provider), Router(providers=[provider], listeners=[recorder]) as router:
            _expect(await router.route(PROMPT) != "", "route gave an empty text")
            pieces = [piece async for piece in router.route_stream(PROMPT)]
            _expect(all(pieces) and bool(pieces), f"route_stream gave {pieces!r}")
        recorder.check_invariants()
        _expect_secret(provider, recorder.text() + repr(recorder.events), "the events")

    # Leaving

    async def test_a_cancelled_call_ends_at_once(self) -> None:
        """``CancelledError`` passes through, plain and streamed, and no connection stays busy."""
        async with _using(_given(self.hanging_provider(), "hanging_provider")) as provider:
            for work in _both_ways(provider):
                task = asyncio.create_task(work)
                done, _ = await asyncio.wait([task], timeout=0.1)
                _expect(not done, "the provider answered although its service hangs")
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=1)
                _expect(bool(done) and task.cancelled(), "the call did not end in CancelledError")
                await self._expect_no_connection("a cancelled call")

    async def test_an_abandoned_stream_closes_its_connection(self) -> None:
        """``aclose()`` of the stream ends the service's work on it."""
        async with _using(_given(self.slow_provider(), "slow_provider")) as provider:
            async with aclosing(provider.open_stream(Request(PROMPT, stream=True))) as events:
                first = await anext(events)
            _expect(not isinstance(first, Finished), "the slow answer came whole at once")
            await self._expect_no_connection("an abandoned stream")

    async def test_aclose_may_be_called_again(self) -> None:
        """Closing twice, and closing without a call, is no error, and leaves no connection."""
        async with _using(self.provider()) as provider:
            await provider.generate(PROMPT)
            await provider.aclose()
            await self._expect_no_connection("aclose()")
        async with self.provider() as unused:
            await unused.aclose()

    async def test_an_injected_client_is_used_and_not_closed(self) -> None:
        """It belongs to who made it."""
        async with httpx.AsyncClient() as client:
            provider = _given(self.provider_with_client(client), "provider_with_client")
            async with _using(provider):
                await provider.generate(PROMPT)
            _expect(not client.is_closed, "aclose() closed a client that is not the provider's")

    # Failing

    @pytest.mark.parametrize(("status", "kind"), [
        (400, InvalidRequestError), (401, AuthenticationError), (429, RateLimitError), (500, ServerError),
        (503, OverloadedError), (418, ProviderError),
    ])
    async def test_a_failure_of_the_service_is_a_typed_error(self, status: int, kind: type[ProviderError]) -> None:
        """Of the class that the status stands for, and without the key."""
        async with _using(_given(self.failing_provider(status), "failing_provider")) as provider:
            for error in await _errors(provider):
                _expect(isinstance(error, kind), f"status {status} gave {error!r}, not {kind.__name__}")
                _expect(error.provider in (None, provider.name), f"{error!r} names another: {error.provider!r}")
                _expect_secret(provider, f"{error!s}{error!r}{_trace(error)}", "the error")

    async def test_an_answer_that_is_none_is_an_error(self) -> None:
        """Never a completion, and never a foreign exception."""
        async with _using(_given(self.garbage_provider(), "garbage_provider")) as provider:
            for error in await _errors(provider):
                _expect(isinstance(error, MalformedResponseError), f"garbage gave {error!r}")

    async def test_a_router_asks_it_once_per_attempt(self) -> None:
        """The router retries; a provider that does so too would multiply the calls."""
        provider = _given(self.failing_provider(500), "failing_provider")
        before = len(_given(self.sent(), "sent"))
        async with _using(provider), Router(providers=[provider], retry=RetryPolicy(max_retries=0)) as router:
            with pytest.raises(OrchestratorError):
                await router.route(PROMPT)
        calls = len(_given(self.sent(), "sent")) - before
        _expect(calls == 1, f"one attempt of the router was {calls} calls of the service")

    async def test_a_health_check_is_a_bool_and_never_raises(self) -> None:
        """True for a service that answers; True or False for one that fails."""
        async with _using(self.provider()) as provider:
            _expect(await provider.health_check() is True, "a good service is not healthy")
        for status in (401, 500):
            failing = self.failing_provider(status)
            if failing is not None:
                async with _using(failing):
                    healthy = await failing.health_check()
                    _expect(isinstance(healthy, bool), f"health_check gave {healthy!r}")

    async def test_its_key_is_shown_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither by ``repr`` and ``str`` nor in the log."""
        caplog.set_level(logging.DEBUG, logger="orchestrator")
        async with _using(self.provider()) as provider:
            await provider.generate(PROMPT)
            _expect_secret(provider, f"{provider!r}{provider!s}{provider.config!r}", "repr")
        failing = self.failing_provider(401)
        if failing is not None:
            async with _using(failing):
                await _errors(failing)
        _expect_secret(provider, caplog.text, "the log")

    # Features of a request

    async def test_unsupported_names_what_it_does_not_support_and_nothing_else(self) -> None:
        """``unsupported`` and ``supports`` say the same."""
        async with _using(self.provider()) as provider:
            for feature in sorted(EVERYTHING):
                request = request_for(feature, provider)
                missing = request.needs - provider.supports
                named = provider.unsupported(request)
                if missing:
                    _expect(named in missing, f"{feature} is not in supports, but unsupported() gave {named!r}")
                else:
                    _expect(named is None, f"{feature} is in supports, but unsupported() gave {named!r}")

    async def test_what_it_does_not_support_is_refused_and_never_dropped(self) -> None:
        """Asked without a router, ``complete`` raises ``InvalidRequestError`` with the name of the field."""
        if not self.refuses_by_itself:
            pytest.skip("the provider leaves it to the router")
        async with _using(self.provider()) as provider:
            for feature in sorted(EVERYTHING - provider.supports):
                request = request_for(feature, provider)
                with pytest.raises(InvalidRequestError, match="|".join(sorted(request.needs - provider.supports))):
                    await provider.complete(request)

    async def test_what_it_supports_is_sent(self) -> None:
        """Each feature in ``supports`` reaches the service."""
        async with _using(self.provider()) as provider:
            for feature in sorted(provider.supports):
                await provider.complete(request_for(feature, provider))
                body = _given(self.sent(), "sent")[-1]
                found = MARKERS[feature].search(body) is not None
                _expect(found, f"{feature} is in supports, but was not sent: {body}")

    async def _expect_no_connection(self, after: str) -> None:
        for _ in range(200):
            if not self.connections():
                return
            await asyncio.sleep(0.005)  # the other end notices a little later
        _expect(False, f"after {after} {self.connections()} connections are open")


@asynccontextmanager
async def _using(provider: BaseProvider) -> AsyncGenerator[BaseProvider, None]:
    """The provider, closed at the end; nothing of it may stay, and nothing may hang."""
    before = asyncio.all_tasks()
    async with asyncio.timeout(LIMIT):
        provider.config.max_retries = 0
        try:
            yield provider
        finally:
            await provider.aclose()
        for _ in range(5):
            await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    _expect(not left, f"tasks are left: {left}")


def _given(value: T | None, hook: str) -> T:
    if value is None:
        pytest.skip(f"{hook}() is not given")
    return value


async def _joined(provider: BaseProvider, prompt: str) -> str:
    async with aclosing(provider.generate_stream(prompt)) as texts:
        pieces = [text async for text in texts]
    _expect(all(isinstance(piece, str) for piece in pieces), f"generate_stream gave {pieces!r}")
    return "".join(pieces)


async def _streamed(provider: BaseProvider, prompt: str) -> Completion:
    """The completion of a stream, whose text is that of its pieces."""
    async with aclosing(provider.open_stream(Request(prompt, stream=True))) as stream:
        events = [event async for event in stream]
    last = events.pop() if events else None
    if not isinstance(last, Finished):
        raise AssertionError(f"the last event of a stream is not Finished, but {last!r}")
    for event in events:
        _expect(isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta), f"{event!r} before the end of a stream")
        _expect(not isinstance(event, TextDelta | ReasoningDelta) or event.text != "", f"an empty {event!r}")
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    completion = last.completion
    _expect(completion.text in ("", text), f"the pieces make {text!r}, the completion says {completion.text!r}")
    completion.text = text
    return completion


def _both_ways(provider: BaseProvider) -> Iterator[Coroutine[None, None, Completion]]:
    """A plain call, then a stream; each is made when it is asked for."""
    yield provider.complete(Request(PROMPT))
    yield _streamed(provider, PROMPT)


async def _errors(provider: BaseProvider) -> list[OrchestratorError]:
    """What a plain call and a stream raise; anything but our errors fails the test by itself."""
    errors = []
    for work in _both_ways(provider):
        with pytest.raises(OrchestratorError) as caught:
            await work
        errors.append(caught.value)
    return errors


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _expect_secret(provider: BaseProvider, shown: str, where: str) -> None:
    key = provider.config.api_key
    _expect(not key or key not in shown, f"{where} shows the key")


def _expect(good: bool, problem: str) -> None:  # noqa: FBT001  # read as an assertion
    if not good:
        raise AssertionError(problem)
