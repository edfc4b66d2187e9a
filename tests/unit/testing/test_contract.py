"""The contract finds what is wrong with a provider: each broken promise fails its own test."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import AuthenticationError, RateLimitError
from orchestrator.core.types import Completion, Finished, Request, TextDelta, Usage
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.mock import Answer, MockProvider
from orchestrator.testing import SimulatedProvider
from orchestrator.testing.contract import ProviderContract

CONFIG = ProviderConfig(name="mine", api_key="the-key-of-mine")


class Good(BaseProvider):
    supports = frozenset()

    async def complete(self, request):
        return Completion(f"Hello, {request.prompt}")


def contract_of(provider, **hooks):
    """The contract with ``provider`` as every provider that a hook may ask for."""
    made = ProviderContract()
    for name in ("provider", "failing_provider", "garbage_provider", "hanging_provider", "slow_provider",
                 "provider_with_client"):
        setattr(made, name, lambda *_: provider)
    for name, hook in hooks.items():
        setattr(made, name, hook)
    return made


def fails(match):
    return pytest.raises((AssertionError, pytest.fail.Exception), match=match)


def streams(*events):
    class Streams(BaseProvider):
        async def open_stream(self, request):
            for event in events:
                yield event

    return Streams(CONFIG)


DONE = Finished(Completion(""))


@pytest.mark.parametrize(("provider", "problem"), [
    (streams(TextDelta(""), TextDelta("a"), DONE), "an empty TextDelta"),
    (streams(TextDelta("a"), DONE, TextDelta("b")), "the last event of a stream is not Finished, but TextDelta"),
    (streams(TextDelta("a"), DONE, DONE), "before the end of a stream"),
    (streams(TextDelta("a"), Finished(Completion("b"))), "the pieces make 'a', the completion says 'b'"),
    (streams(DONE), "gave '', not a text"),
])
async def test_a_stream_of_a_wrong_form(provider, problem):
    with fails(problem):
        await contract_of(provider).test_a_prompt_is_answered_with_text_in_every_way()


async def test_a_wrong_answer():
    with fails("generate gave 'Hello, Say hello', not 'Bye'"):
        made = contract_of(Good(CONFIG), expected=lambda _: "Bye")
        await made.test_a_prompt_is_answered_with_text_in_every_way()


async def test_a_wrong_completion():
    for completion, problem in ((Completion("a", finish_reason="eos"), "finish_reason is 'eos'"),
                                (Completion("a", usage={}), "usage is {}"),
                                (Completion("a", usage=Usage(1, -1)), "below zero")):
        class Wrong(BaseProvider):
            async def complete(self, request, answer=completion):
                return answer

        with fails(problem):
            await contract_of(Wrong(CONFIG)).test_a_completion_tells_why_it_finished_and_counts_tokens()


async def test_a_provider_that_mixes_calls_up():
    class Mixes(BaseProvider):
        async def generate(self, prompt, params=None):
            self.prompt = prompt
            await asyncio.sleep(1)
            return self.prompt

    with fails("number 0' got 'Say hello number 7'"):
        made = contract_of(Mixes(CONFIG), expected=lambda prompt: prompt)
        await made.test_concurrent_calls_get_each_their_own_answer()


async def test_a_provider_that_swallows_cancellation():
    class Deaf(BaseProvider):
        async def generate(self, prompt, params=None):
            try:
                await asyncio.sleep(1e9)
            except asyncio.CancelledError:
                return "never mind"

    with fails("did not end in CancelledError"):
        await contract_of(Deaf(CONFIG)).test_a_cancelled_call_ends_at_once()
    with fails("answered although"):
        await contract_of(Good(CONFIG)).test_a_cancelled_call_ends_at_once()


async def test_a_provider_that_leaves_tasks():
    class Leaves(Good):
        async def complete(self, request):
            self.task = asyncio.create_task(asyncio.sleep(100))
            return await super().complete(request)

    provider = Leaves(CONFIG)
    with fails("tasks are left"):
        await contract_of(provider).test_aclose_may_be_called_again()


async def test_a_provider_that_keeps_connections():
    with fails("after an abandoned stream 3 connections are open"):
        slow = MockProvider(CONFIG, script=[Answer("a b", gap=100)])
        await contract_of(slow, connections=lambda: 3).test_an_abandoned_stream_closes_its_connection()
    with fails("came whole at once"):
        await contract_of(streams(DONE)).test_an_abandoned_stream_closes_its_connection()


async def test_a_provider_that_closes_the_client_of_another():
    class Closes(Good):
        def __init__(self, client):
            super().__init__(CONFIG)
            self.client = client

        async def aclose(self):
            await self.client.aclose()

    with fails("closed a client that is not the provider's"):
        await contract_of(None, provider_with_client=Closes).test_an_injected_client_is_used_and_not_closed()


class Raises(BaseProvider):
    def __init__(self, error):
        super().__init__(CONFIG)
        self.error = error

    async def generate(self, prompt, params=None):
        raise self.error


async def test_errors_of_a_wrong_class_or_with_the_key():
    made = contract_of(Raises(RateLimitError("slow down")))
    await made.test_a_failure_of_the_service_is_a_typed_error(429, RateLimitError)
    with fails("status 401 gave RateLimitError.*not AuthenticationError"):
        await made.test_a_failure_of_the_service_is_a_typed_error(401, AuthenticationError)
    assert CONFIG.max_retries == 0  # what it does when used alone is not the matter here
    with fails("names another: 'other'"):
        made = contract_of(Raises(RateLimitError(provider="other")))
        await made.test_a_failure_of_the_service_is_a_typed_error(429, RateLimitError)
    with fails("the error shows the key"):
        made = contract_of(Raises(AuthenticationError("bad key the-key-of-mine")))
        await made.test_a_failure_of_the_service_is_a_typed_error(401, AuthenticationError)
    with pytest.raises(httpx.ReadError):
        await contract_of(Raises(httpx.ReadError(""))).test_an_answer_that_is_none_is_an_error()
    with fails("DID NOT RAISE"):
        await contract_of(Good(CONFIG)).test_an_answer_that_is_none_is_an_error()
    with fails("garbage gave"):
        await made.test_an_answer_that_is_none_is_an_error()


async def test_a_provider_that_retries_under_a_router():
    server = SimulatedProvider("openai", failure_rate=1)

    class Stubborn(BaseProvider):
        async def generate(self, prompt, params=None):
            async with httpx.AsyncClient(transport=server.transport()) as client:
                for _ in range(3):
                    response = await client.post(f"{server.base_url}/chat/completions")
            response.raise_for_status()

    made = contract_of(Stubborn(CONFIG), sent=lambda: [""] * server.received)
    with fails("one attempt of the router was 3 calls"):
        await made.test_a_router_asks_it_once_per_attempt()


async def test_a_wrong_health_check():
    class Sick(Good):
        async def health_check(self):
            return False

    class Vague(Good):
        healths = [True, None]  # noqa: RUF012

        async def health_check(self):
            return self.healths.pop(0)

    with fails("a good service is not healthy"):
        await contract_of(Sick(CONFIG)).test_a_health_check_is_a_bool_and_never_raises()
    with fails("health_check gave None"):
        await contract_of(Vague(CONFIG)).test_a_health_check_is_a_bool_and_never_raises()


async def test_a_provider_that_shows_its_key(caplog):
    class Shows(Good):
        def __repr__(self):
            return f"Shows({self.config.api_key})"

    class Logs(Good):
        async def complete(self, request):
            logging.getLogger("orchestrator.mine").debug("key %s", self.config.api_key)
            return await super().complete(request)

    made = contract_of(Shows(CONFIG), failing_provider=lambda _: None)
    with fails("repr shows the key"):
        await made.test_its_key_is_shown_nowhere(caplog)
    made = contract_of(Logs(CONFIG), failing_provider=lambda _: None)
    with fails("the log shows the key"):
        await made.test_its_key_is_shown_nowhere(caplog)


async def test_supports_that_says_something_else_than_the_provider_does():
    class Modest(Good):
        def unsupported(self, request):
            return "tools" if request.needs else None

    class Eager(Good):
        def unsupported(self, request):
            return None

    class Pretends(Good):
        supports = EVERYTHING

    with fails("images is not in supports, but unsupported.. gave 'tools'"):
        await contract_of(Modest(CONFIG)).test_unsupported_names_what_it_does_not_support_and_nothing_else()
    with fails("images is not in supports, but unsupported.. gave None"):
        await contract_of(Eager(CONFIG)).test_unsupported_names_what_it_does_not_support_and_nothing_else()
    with fails("DID NOT RAISE"):
        await contract_of(Good(CONFIG)).test_what_it_does_not_support_is_refused_and_never_dropped()
    with fails("images is in supports, but was not sent: nothing"):
        await contract_of(Pretends(CONFIG), sent=lambda: ["nothing"]).test_what_it_supports_is_sent()


async def test_hooks_that_are_not_given_skip_their_tests():
    made = ProviderContract()
    with pytest.raises(NotImplementedError, match="must define provider"):
        made.provider()
    with pytest.raises(pytest.skip.Exception):
        await made.test_a_cancelled_call_ends_at_once()
    made.refuses_by_itself = False
    with pytest.raises(pytest.skip.Exception):
        await made.test_what_it_does_not_support_is_refused_and_never_dropped()
    assert made.expected("?") is made.connections() is None


async def test_a_router_gets_the_answer_of_a_good_provider():
    made = contract_of(Good(CONFIG))
    await made.test_a_router_gets_answers_from_it()
    assert await Good(CONFIG).complete(Request("you")) == Completion("Hello, you")
