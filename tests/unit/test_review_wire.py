"""What servers write that means nothing: taken for what it is, neither for the end of an answer nor for a limit."""

from __future__ import annotations

import json

import pytest

from orchestrator import MalformedResponseError, ProviderConfig, TextDelta
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.providers import GigaChatProvider, YandexGPTProvider
from orchestrator.providers._openai_reply import Reply
from orchestrator.providers._rate_limits import rate_limits
from support import first_available, mock


def piece(text, reason, **more):
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more})


@pytest.mark.parametrize("nothing", ["", "null", None])
@pytest.mark.parametrize("more", [{}, {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}], ids=["", "usage"])
def test_a_finish_reason_that_says_nothing_is_no_end(nothing, more):
    reply = Reply(provider="a", model="m")
    assert list(reply.feed([piece("Hi", nothing, **more)])) == [TextDelta("Hi")]
    assert not reply.done
    assert list(reply.feed([piece(" you", nothing, **more)])) == [TextDelta(" you")]
    with pytest.raises(MalformedResponseError, match="cut"):
        reply.finish()
    list(reply.feed([piece("", "stop")]))
    assert reply.finish().completion.finish_reason == "stop"


@pytest.mark.parametrize("nothing", ["", "null"])
def test_a_whole_answer_without_a_word_on_its_end_is_whole(nothing):
    payload = {"choices": [{"message": {"content": "Hi"}, "finish_reason": nothing}]}
    assert Reply(provider="a", model="m").completion(payload).text == "Hi"


def test_a_limit_of_nothing_is_no_limit():
    headers = {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0",
               "x-ratelimit-reset-requests": "60", "x-ratelimit-limit-tokens": "9", "x-ratelimit-remaining-tokens": "0"}
    assert rate_limits(headers) == RateLimits(None, Quota(0, 9, None, refills=True))


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "null"])
@pytest.mark.parametrize("kind", [GigaChatProvider, YandexGPTProvider])
async def test_a_call_a_model_wrote_badly_goes_to_a_provider_that_carries_any_text(kind, arguments):
    function = {"name": "f", "arguments": arguments}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "that is no JSON"},
    ]
    native = kind(ProviderConfig(name="a", api_key="a2V5OnNlY3JldA==", folder_id="f", model="m"))
    async with first_available(native, mock("b")) as router:
        assert (await router.complete(messages)).provider == "b"
