"""One table from status, code, text, header and exception to our errors: the whole of it, misleading answers first."""

from __future__ import annotations

import builtins
import json
import ssl
import subprocess
import sys
from collections.abc import Mapping

import httpx
import pytest

from orchestrator import errors
from orchestrator.core.errors import (
    AuthenticationError,
    CircuitOpenError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.providers._errors import (
    error_from_payload,
    error_from_response,
    error_from_transport,
    request_id,
    wrap_foreign,
)

KEY = "sk-test-0123456789abcdef"


def judged(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> ProviderError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    secrets = (KEY, None, "no")
    return error_from_response(status, httpx.Headers(headers or {}), raw, provider="p", model="m", secrets=secrets)


def error(message: str = "no", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


# --- status alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind"), [
    (400, InvalidRequestError), (401, AuthenticationError), (402, QuotaExceededError), (403, AuthenticationError),
    (404, ModelNotFoundError), (405, ProviderError), (408, TimeoutError), (409, ServerError),
    (410, ModelNotFoundError), (413, ContextWindowExceededError), (418, ProviderError), (422, InvalidRequestError),
    (424, ServerError), (429, RateLimitError), (498, OverloadedError), (499, ServerError), (500, ServerError),
    (501, InvalidRequestError), (502, ServerError), (503, OverloadedError), (504, TimeoutError), (520, ServerError),
    (524, TimeoutError), (529, OverloadedError), (599, ServerError),
])
def test_a_bare_status_decides(status, kind):
    found = judged(status)
    assert type(found) is kind
    assert (found.status_code, found.provider, found.model) == (status, "p", "m")


def test_a_redirect_says_that_it_is_not_followed_and_shows_no_query():
    found = judged(308, headers={"location": "https://other.example/v1?key=abc"})
    assert type(found) is ProviderError
    assert "https://other.example/v1; redirects are not followed, set base_url" in found.message
    assert "abc" not in str(found)


# --- what misleads --------------------------------------------------------------------------------------------------

MISLEADING = [
    ("together: 403 is a long input", 403, error("`inputs` tokens + `max_new_tokens` must be <= 4096"),
     ContextWindowExceededError),
    ("together: 422 is a long input", 422, error("The prompt is too long"), ContextWindowExceededError),
    ("openai: context code", 400, error("x", code="context_length_exceeded"), ContextWindowExceededError),
    ("vllm: context text", 400, error("This model's maximum context length is 4.", type="BadRequestError", code=4),
     ContextWindowExceededError),
    ("llama.cpp: context type", 400, error("x", type="exceed_context_size_error", code=400, n_ctx=512),
     ContextWindowExceededError),
    ("yandex: too many tokens", 400, error("number of input tokens must be no more than 8192, got 9000", grpcCode=3,
                                           httpCode=400), ContextWindowExceededError),
    ("gigachat: 413", 413, {"status": 413, "message": "Payload too large"}, ContextWindowExceededError),
    ("groq: 413 above the tier", 413, error("on tokens per minute (TPM): Limit 6000, Requested 8000, please reduce",
                                            code="rate_limit_exceeded", type="tokens"), ContextWindowExceededError),
    ("groq: 413 within the tier", 413, error("(TPM): Limit 6000, Requested 500. Please try again in 2s.",
                                             code="rate_limit_exceeded"), RateLimitError),
    ("mistral: model", 400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
     ModelNotFoundError),
    ("deepseek: model", 400, error("Model Not Exist", type="invalid_request_error", code="invalid_request_error"),
     ModelNotFoundError),
    ("openai: model by code with 400", 400, error("x", code="model_not_found"), ModelNotFoundError),
    ("openrouter: model", 400, error("nope/x is not a valid model ID", code=400), ModelNotFoundError),
    ("yandex: model", 400, error("invalid model_uri", grpcCode=3, httpCode=400), ModelNotFoundError),
    ("lm studio: nothing loaded", 400, {"error": "No models loaded. Please load a model"}, ModelNotFoundError),
    ("openai: 429 is money, by code", 429, error("x", code="insufficient_quota"), QuotaExceededError),
    ("openai: 429 is money, by type", 429, error("x", code="project_spend_limit_exceeded", type="insufficient_quota"),
     QuotaExceededError),
    ("openai: 429 is money, by a new code", 429, error("x", code="organization_usage_limit_exceeded"),
     QuotaExceededError),
    ("deepseek: 402", 402, error("Insufficient Balance"), QuotaExceededError),
    ("yandex: 403 is money", 403, error("The billing account is not active", grpcCode=7, httpCode=403),
     QuotaExceededError),
    ("yandex: quota is concurrency", 429, error("sessionsCount.count gauge quota limit exceed: allowed 10 requests",
                                                grpcCode=8, httpCode=429), RateLimitError),
    ("yandex: a foreign folder", 400, error("Specified folder ID 'b1' does not match with service account folder ID",
                                            grpcCode=3, httpCode=400), AuthenticationError),
    ("gemini: a bad key is a 400", 400, [error("API key not valid. Please pass a valid API key.", code=400)],
     AuthenticationError),
    ("openai: policy", 400, error("x", code="content_policy_violation"), ContentFilteredError),
    ("azure: filter", 400, error("x", code="content_filter"), ContentFilteredError),
    ("mistral: guardrail", 403, {"object": "error", "message": "Blocked by a guardrail"}, ContentFilteredError),
    ("groq: the model wrote a bad call", 400, error("x", code="tool_use_failed", failed_generation="<f>"),
     MalformedResponseError),
    ("openai: overloaded", 503, error("x", code="server_is_overloaded", type="service_unavailable_error"),
     OverloadedError),
    ("llama.cpp: loading", 503, error("Loading model", code=503, type="unavailable_error"), OverloadedError),
    ("mistral: a 429 that calls itself invalid", 429,
     {"object": "error", "message": "Service tier capacity exceeded", "type": "invalid_request_error", "code": "3505"},
     RateLimitError),
    ("openrouter: moderation", 403, error("x", code=403, metadata={"reasons": ["violence"]}), ContentFilteredError),
    ("openrouter: the upstream's key", 401, error("x", code=401, metadata={"provider_name": "P"}), ServerError),
    ("openrouter: our key", 401, error("No auth credentials found", code=401), AuthenticationError),
    ("openrouter: in-flight budget", 402,
     error("x", code=402, metadata={"limit_source": "openrouter_in_flight_budget"}), RateLimitError),
    ("openrouter: daily cap", 429, error("x", code=429, metadata={"limit_source": "openrouter_free_tier_daily"}),
     QuotaExceededError),
    ("openrouter: shared pool", 429, error("x", code=429, metadata={"limit_source": "upstream_provider_shared_pool",
                                                                    "provider_name": "P"}), RateLimitError),
    ("openrouter: context, told by the upstream", 400,
     error("Provider returned error", code=400, metadata={"raw": json.dumps(error("maximum context length is 10"))}),
     ContextWindowExceededError),
    ("gemini: the quota of a day", 429,
     error("You exceeded your current quota", code=429, details=[{"violations": [{"quotaId": "RequestsPerDay-Free"}]}]),
     QuotaExceededError),
    ("gemini: the quota of a minute", 429,
     error("You exceeded your current quota", code=429, details=[{"violations": [{"quotaId": "RequestsPerMinute"}]}]),
     RateLimitError),
    ("gemini: no quota at all", 429, error("Quota exceeded for metric: x, limit: 0, model: y"), QuotaExceededError),
    ("anthropic: spent, told in the details", 429,
     error("x", type="rate_limit_error", details={"error_code": "org_spend_limit_reached"}), QuotaExceededError),
    ("bedrock: service quota", 400, {"message": "x", "type": "ServiceQuotaExceededException"}, QuotaExceededError),
    ("bedrock: model not ready", 429, {"message": "x", "type": "ModelNotReadyException"}, OverloadedError),
    ("a 429 about tokens is no long input", 429, error("too many tokens per minute"), RateLimitError),
    ("a 400 about something else", 400, error("temperature must be in [0, 1]"), InvalidRequestError),
    ("a model that cannot do something exists", 400, error("this model does not support images"), InvalidRequestError),
]


@pytest.mark.parametrize(("status", "body", "kind"), [row[1:] for row in MISLEADING], ids=[r[0] for r in MISLEADING])
def test_what_the_body_says_outweighs_a_misleading_status(status, body, kind):
    assert type(judged(status, body)) is kind


def test_a_mistral_key_without_allowance_is_a_quota_not_a_wait():
    assert type(judged(429, headers={"x-ratelimit-limit-req-minute": "0"})) is QuotaExceededError
    assert type(judged(429, headers={"x-ratelimit-limit-req-minute": "60"})) is RateLimitError


# --- shapes of bodies -----------------------------------------------------------------------------------------------

SHAPES = [
    ("object", error("why", type="t", code="c"), "why", "c"),
    ("number as code, the type is shown", error("why", type="BadRequest", code=400), "why", "badrequest"),
    ("type only", error("why", type="quota"), "why", "quota"),
    ("text", {"error": "why"}, "why", None),
    ("grpc", {"error": {"grpcCode": 3, "httpCode": 400, "message": "why"}}, "why", None),
    ("flat grpc", {"code": 3, "message": "why", "details": []}, "why", "3"),
    ("gigachat", {"status": 400, "message": "why"}, "why", None),
    ("anthropic", {"type": "error", "error": {"type": "t", "message": "why"}}, "why", "t"),
    ("flat", {"object": "error", "message": "why", "type": "t", "code": None}, "why", "t"),
    ("detail text", {"detail": "why"}, "why", None),
    ("detail list", {"detail": [{"loc": ["body", "seed"], "msg": "extra", "type": "x", "input": 1}]},
     "body.seed: extra", None),
    ("detail within a message", {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "bad"}]}},
     "body.x: bad", None),
    ("message", {"message": "why"}, "why", None),
    ("array", [{"error": {"message": "why", "code": 400}}], "why", "400"),
    ("error within error", {"error": {"error": "why"}}, "why", None),
    ("raw of the upstream", error("Provider returned error", code=400, metadata={"raw": '{"error":"why"}'}),
     "Provider returned error: why", "400"),
    ("raw that is text", error("Failed", metadata={"raw": "why"}), "Failed: why", None),
    ("raw that is cut JSON", error("Failed", metadata={"raw": '{"a'}), 'Failed: {"a', None),
    ("JSON text", "why", "why", None),
    ("HTML", b"<!DOCTYPE html><html><head><title>Bad day </title></head>...", "Bad day (an HTML page)", None),
    ("HTML without a title", b"<html>", "Bad Request (an HTML page)", None),
    ("text/plain", b"  why\n not ", "why not", None),
    ("broken JSON", b'{"error": {"mess', '{"error": {"mess', None),
    ("empty", b"", "Bad Request", None),
    ("empty object", {}, "Bad Request", None),
    ("null", None, "null", None),
    ("a list of nothing", [], "Bad Request", None),
    ("no UTF-8", b"\xff\xfe", "\ufffd\ufffd", None),
]


@pytest.mark.parametrize(("body", "message", "code"), [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES])
def test_every_shape_of_an_error_body_is_read(body, message, code):
    found = judged(400, body)
    assert (found.message, found.code) == (message, code)
    assert isinstance(found, InvalidRequestError)


@pytest.mark.parametrize("depth", [90, 200, 900, 990, 5000])
def test_an_error_with_details_nested_deep_is_still_an_error(depth):
    details = "[" * depth + "]" * depth
    for place in ('"details": %s', '"metadata": {"raw": "{\\"a\\": %s}"}'):
        found = judged(429, ('{"error": {"message": "slow down", %s}}' % (place % details)).encode())
        assert isinstance(found, RateLimitError)
        assert len(str(found)) < 600


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"error": "no"}', b'{"error": "\\ud83d", "error": "no"}'])
def test_a_byte_order_mark_and_a_field_told_twice_are_read(body):
    assert judged(400, body).message == "no"


def test_half_a_surrogate_pair_is_not_in_a_message():
    found = judged(400, b'{"error": {"message": "a\\ud83d b", "code": "\\ud83d"}}')
    assert (found.message, found.code) == ("a\ufffd b", "\ufffd")


def test_a_body_nested_without_end_is_still_an_error():
    assert type(judged(500, b"[" * 60_000)) is ServerError
    deep: object = "end"
    for _ in range(50):
        deep = {"message": deep}
    assert judged(400, deep).message == "Bad Request"


def test_a_status_without_a_name_still_has_a_message():
    assert judged(599).message == "no error message"


# --- errors within a success ----------------------------------------------------------------------------------------

WITHIN = [
    (error("engine died", type="InternalServerError", code=500), ServerError, 500),
    (error("Upstream failed", code=502), ServerError, 502),
    (error("slow", code=429), RateLimitError, 429),
    (error("busy", code=529), OverloadedError, 529),
    (error("busy", type="overloaded_error"), OverloadedError, None),
    (error("x", type="rate_limit_error"), RateLimitError, None),
    (error("x", type="invalid_request_error"), InvalidRequestError, None),
    (error("x", type="not_found_error"), ModelNotFoundError, None),
    (error("x", type="authentication_error"), AuthenticationError, None),
    (error("x", type="timeout"), TimeoutError, None),
    (error("x", grpcCode=8, httpCode=429), RateLimitError, 429),
    ({"code": 16, "message": "token expired"}, AuthenticationError, 401),
    ({"error": {"grpcCode": 14, "message": "x"}}, OverloadedError, 503),
    ({"status": 401, "message": "Token has expired"}, AuthenticationError, 401),
    ({"error": "boom"}, ServerError, None),
    ({"error": "boom", "statusCode": "503"}, OverloadedError, 503),
    ({"error": "This model's maximum context length is 5"}, ContextWindowExceededError, None),
    ("text", ServerError, None),
    (None, ServerError, None),
    ([1], ServerError, None),
]


@pytest.mark.parametrize(("payload", "kind", "status"), WITHIN)
def test_an_error_told_within_a_success_is_judged_by_what_it_tells(payload, kind, status):
    found = error_from_payload(payload, provider="p", model="m")
    assert (type(found), found.status_code) == (kind, status)


# --- what comes along -----------------------------------------------------------------------------------------------


def test_the_wait_the_code_and_the_request_id_come_along():
    found = judged(429, error("x", code="slow_down"), {"retry-after": "3", "x-request-id": "req-1"})
    assert (found.retry_after, found.code, found.request_id) == (3, "slow_down", "req-1")
    assert judged(503, headers={"retry-after": "4"}).retry_after == 4
    assert judged(429, error("Please try again in 6m0s.")).retry_after == 360
    assert judged(429, headers={"x-ratelimit-reset-tokens": "120ms"}).retry_after == pytest.approx(0.12)


def test_only_errors_that_may_pass_by_waiting_have_a_wait():
    assert judged(401, headers={"retry-after": "3"}).retry_after is None
    assert judged(400, error("try again in 5s")).retry_after is None
    assert judged(503, headers={"x-ratelimit-reset-tokens": "5s"}).retry_after is None


def test_the_request_id_has_many_names_and_a_bounded_length():
    assert request_id({"request-id": "a"}) == "a"
    assert request_id({"cf-ray": "b"}) == "b"
    assert request_id({}) is None
    assert len(request_id({"x-request-id": "x" * 9999}) or "") == 128


@pytest.mark.parametrize("leak", [
    KEY, "sk-abc***wxyz", "gsk_12345678", "eyJhbGciOi.eyJzdWIi.c2ln", "AQVNabcdef123", "t1.9euelZqabc",
    "Bearer 12345678abc", "bearer abcdefg1",
])
def test_keys_never_appear_in_a_message_or_a_code(leak):
    found = judged(401, error(f"Incorrect API key provided: {leak}. Get one at the site.", code=leak))
    assert leak not in str(found)
    assert "***" in found.message
    assert found.message.endswith("Get one at the site.")


def test_a_password_in_an_address_is_not_shown():
    assert "hunter2" not in judged(400, error("cannot reach https://me:hunter2@proxy/")).message


def test_words_that_only_resemble_keys_stay():
    text = "Bearer authentication is required, ask-me-anything"
    assert judged(401, error(text)).message == text


def test_messages_are_one_bounded_line():
    found = judged(400, error("a\n" * 100_000, code="c" * 5000))
    assert len(found.message) <= 501
    assert len(found.code or "") <= 64
    assert "\n" not in found.message


# --- below HTTP -----------------------------------------------------------------------------------------------------

REQUEST = httpx.Request("POST", "https://api.example/v1")
TRANSPORT = [
    (httpx.ConnectTimeout("slow"), TimeoutError), (httpx.ReadTimeout("slow"), TimeoutError),
    (httpx.PoolTimeout("slow"), TimeoutError), (httpx.ConnectError("refused"), ConnectionFailedError),
    (httpx.ReadError("reset"), ConnectionFailedError), (httpx.WriteError("broken pipe"), ConnectionFailedError),
    (httpx.RemoteProtocolError("closed"), ConnectionFailedError), (httpx.ProxyError("407"), ConnectionFailedError),
    (httpx.UnsupportedProtocol("no scheme"), ProviderError), (httpx.InvalidURL("bad"), ProviderError),
    (httpx.LocalProtocolError("Illegal header value b'Bearer KEY'"), ProviderError),
    (httpx.DecodingError("gzip"), MalformedResponseError), (httpx.TooManyRedirects("loop"), ProviderError),
    (builtins.TimeoutError(), TimeoutError),
    (ConnectionResetError("reset"), ConnectionFailedError), (OSError(113, "no route"), ConnectionFailedError),
    (ssl.SSLError("handshake"), ConnectionFailedError),
    (json.JSONDecodeError("x", "secret", 0), ProviderError), (KeyError("choices"), ProviderError),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ProviderError), (RuntimeError("KEY"), ProviderError),
]


@pytest.mark.parametrize(("exc", "kind"), TRANSPORT, ids=[type(exc).__name__ for exc, _ in TRANSPORT])
def test_every_foreign_exception_becomes_one_of_ours(exc, kind):
    found = wrap_foreign(exc, provider="p", model="m")
    assert type(found) is kind
    assert (found.provider, found.model) == ("p", "m")
    assert "KEY" not in str(found)
    assert "secret" not in str(found)
    assert found.__cause__ is (None if isinstance(exc, httpx.LocalProtocolError) else exc)


def test_the_phase_of_a_timeout_is_told():
    assert error_from_transport(httpx.ConnectTimeout("x"), provider="p").phase == "connect"  # type: ignore[attr-defined]
    assert error_from_transport(httpx.ReadTimeout("x"), provider="p").phase == "attempt"  # type: ignore[attr-defined]


def test_what_breaks_within_a_body_is_a_cut_answer():
    for exc in (httpx.RemoteProtocolError("incomplete"), httpx.ReadError("reset")):
        found = error_from_transport(exc, provider="p", in_body=True)
        assert type(found) is MalformedResponseError
        assert "the answer was cut" in found.message
    assert type(error_from_transport(httpx.ReadTimeout("x"), provider="p", in_body=True)) is TimeoutError


def test_an_untrusted_certificate_names_the_setting_that_helps():
    exc = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")
    found = wrap_foreign(exc, provider="p")
    assert type(found) is ConnectionFailedError
    assert "set ca_bundle to a PEM file" in found.message


def test_a_bad_address_names_base_url():
    assert wrap_foreign(httpx.UnsupportedProtocol("no scheme"), provider="p").message == "base_url: no scheme"


def test_our_own_errors_pass_with_the_name_filled_in():
    ours = errors.ServerError("x")
    assert wrap_foreign(ours, provider="p", model="m") is ours
    assert (ours.provider, ours.model) == ("p", "m")
    named = CircuitOpenError("x", provider="other", model="n")
    assert wrap_foreign(named, provider="p", model="m").provider == "other"


def test_an_exception_with_a_response_is_judged_by_the_response():
    response = httpx.Response(429, headers={"Retry-After": "9"}, json=error("later"), request=REQUEST)
    exc = httpx.HTTPStatusError("429", request=REQUEST, response=response)
    found = wrap_foreign(exc, provider="p")
    assert (type(found), found.message, found.retry_after) == (RateLimitError, "later", 9)
    assert found.__cause__ is exc


def test_a_response_that_was_not_read_or_is_no_failure_does_no_harm():
    unread = httpx.Response(503, stream=_Unread(), request=REQUEST)
    exc = httpx.HTTPStatusError("503", request=REQUEST, response=unread)
    assert type(wrap_foreign(exc, provider="p")) is OverloadedError

    class Validation(Exception):
        response = httpx.Response(200)

    assert wrap_foreign(Validation(), provider="p").message == "Validation in the provider"

    class Odd(Exception):
        class response:  # noqa: N801
            status_code = 404
            headers = None
            content = "text"

    assert type(wrap_foreign(Odd(), provider="p")) is ModelNotFoundError


class _Unread(httpx.AsyncByteStream):
    pass


def test_judging_needs_no_httpx():
    code = (
        "import sys; from orchestrator.providers._errors import wrap_foreign, error_from_response as e\n"
        "e(429, {}, b'{}', provider='p'); wrap_foreign(OSError('x'), provider='p'); assert 'httpx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
