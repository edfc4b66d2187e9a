"""The one place where a provider's failure, in whatever form, becomes one of our errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from orchestrator.core.errors import (
    AuthenticationError,
    CapacityError,
    CircuitOpenError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    OrchestratorError,
    OverloadedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.providers._failure import EMPTY, Failure, clean, read_body, read_payload
from orchestrator.providers._retry_after import retry_after, seconds

__all__ = ["error_from_payload", "error_from_response", "error_from_transport", "request_id", "wrap_foreign"]

Kind = type[ProviderError]

# 1. A code or type that means one thing whatever the status. Whole words, lower case.
_NAMES: tuple[tuple[Kind, str], ...] = (
    (ContextWindowExceededError, r"context_length_exceeded|exceed_context_size_error"),
    (QuotaExceededError, (r"insufficient_quota|credit_balance_exhausted|billing_(error|not_active|hard_limit_reached)"
                          r"|(\w*_)?(spend|usage)_limit_(exceeded|reached)|servicequotaexceeded\w*")),
    (ContentFilteredError, r"content_policy_violation|content_filter|invalid_prompt"),
    (ModelNotFoundError, r"model_not_found|invalid_model|1500|model_decommissioned|model_not_available"),
    (AuthenticationError, r"invalid_api_key|authentication_error|permission_error"),
    (OverloadedError, (r"server_is_overloaded|overloaded_error|unavailable_error|service_unavailable_error"
                       r"|modelnotready\w*")),
    (RateLimitError, r"slow_down"),
    # The model, not the caller, wrote a tool call or JSON that the provider could not parse (Groq).
    (MalformedResponseError, r"tool_use_failed|json_validate_failed"),
)

# 2. A text that outweighs these statuses; None is an error told within a success.
_TEXTS: tuple[tuple[Kind, frozenset[int | None], str], ...] = (
    (ContextWindowExceededError, frozenset({400, 403, 422, 500, None}),
     (r"maximum context length|context_length_exceeded|prompt is too long|exceeds? (the )?context (limit|window)"
      r"|exceeds the maximum number of tokens|input token count|exceeds the available context size|input is too long"
      r"|number of input tokens must be no more than|too many tokens|max_new_tokens\S* must be"
      r"|input length exceeds the context length|reduce the length of the messages")),
    (ModelNotFoundError, frozenset({400, 422, None}),
     (r"model not exist|invalid model\b|unknown model|model\b.{0,100}\b(not found|does not exist)|no models loaded"
      r"|not a valid model|model identifier is invalid"
      r"|(invalid|unknown|wrong).{0,20}model_?uri|model_?uri.{0,60}(invalid|not found)")),
    (AuthenticationError, frozenset({400, None}),
     r"api_key_invalid|api key not valid|folder.?id.{0,80}(does not match|mismatch)"),
    (QuotaExceededError, frozenset({403, 429, None}),
     r"billing account|\blimit: 0\b|insufficient (balance|credit|funds)|\bcloud\b.{0,60}(blocked|suspended|inactive)"),
    (ContentFilteredError, frozenset({403, None}), r"guardrail|flagged|moderation"),
)

# 3. The status alone. Other 5xx: ServerError; other 3xx and 4xx: ProviderError, for it is not known whose fault it is.
_STATUSES: dict[int, Kind] = {
    400: InvalidRequestError, 401: AuthenticationError, 402: QuotaExceededError, 403: AuthenticationError,
    404: ModelNotFoundError, 408: TimeoutError, 409: ServerError, 410: ModelNotFoundError,
    413: ContextWindowExceededError, 422: InvalidRequestError, 424: ServerError, 425: ServerError,
    429: RateLimitError, 498: OverloadedError, 499: ServerError, 501: InvalidRequestError, 503: OverloadedError,
    504: TimeoutError, 524: TimeoutError, 529: OverloadedError,
}

# 4. A code or type that only helps when there is no status at all.
_VAGUE_NAMES: tuple[tuple[Kind, str], ...] = (
    (InvalidRequestError, r"invalid_request_error|badrequesterror|bad request"),
    (RateLimitError, r"rate_limit\w*|too_many_requests|1300"),
    (ModelNotFoundError, r"not_found\w*|notfounderror"),
    (TimeoutError, r"timeout\w*"),
)

# Transport exceptions by the name of the nearest class in their MRO, so that httpx need not be loaded to know them.
_TRANSPORT: dict[str, Kind] = {
    "TimeoutException": TimeoutError,
    "TimeoutError": TimeoutError,
    "LocalProtocolError": ProviderError,  # what we sent is no HTTP
    "UnsupportedProtocol": ProviderError,  # base_url
    "InvalidURL": ProviderError,
    "DecodingError": MalformedResponseError,
    "TransportError": ConnectionFailedError,
    "OSError": ConnectionFailedError,
}

_REQUEST_IDS = ("x-request-id", "request-id", "x-kong-request-id", "x-server-trace-id", "cf-ray")


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, provider: str, model: str | None = None,
    secrets: Iterable[str | None] = (),
) -> ProviderError:
    """The error that a response with this status stands for; ``secrets`` never appear in its message."""
    if 300 <= status < 400:
        target = headers.get("location", "").partition("?")[0]
        failure = Failure(status, message=f"redirected to {target or 'nowhere'}; redirects are not followed, "
                                          "set base_url to the final address")
    else:
        failure = read_body(status, body)
    return _error(failure, headers, provider, model, secrets)


def error_from_payload(
    payload: object, *, provider: str, model: str | None = None, headers: Mapping[str, str] = EMPTY,
    secrets: Iterable[str | None] = (),
) -> ProviderError:
    """The error told by a JSON value within a success: a body or a piece of a stream."""
    return _error(read_payload(payload), headers, provider, model, secrets)


def error_from_transport(
    exc: BaseException, *, provider: str, model: str | None = None, in_body: bool = False
) -> ProviderError:
    """What a failure below HTTP stands for; ``in_body``: the headers of a response had arrived."""
    names = [cls.__name__ for cls in type(exc).__mro__]
    kind = next((_TRANSPORT[name] for name in names if name in _TRANSPORT), ProviderError)
    text = clean(str(exc)) or names[0]
    if kind is TimeoutError:
        phase = "connect" if "ConnectTimeout" in names else "attempt"
        error: ProviderError = TimeoutError(phase=phase, provider=provider, model=model)
    else:
        if kind is ConnectionFailedError:
            kind, text = (MalformedResponseError, f"the answer was cut: {text}") if in_body else (kind, _why(text))
        elif kind is ProviderError:
            # The text of other exceptions may hold what was sent; LocalProtocolError quotes the key.
            text = f"base_url: {text}" if names[0] in {"UnsupportedProtocol", "InvalidURL"} else (
                f"{names[0]} in the provider")
        error = kind(text, provider=provider, model=model)
    error.__cause__ = None if "LocalProtocolError" in names else exc
    return error


def wrap_foreign(exc: BaseException, *, provider: str, model: str | None = None) -> OrchestratorError:
    """Our own errors as they are (with the provider's name filled in), anything else mapped, kept as ``__cause__``.

    A client library's exception with a ``response`` (httpx, requests, vendors' SDKs) is judged by that response; a
    group of one, as a task group raises it, by that one; a whole router behind a provider has failed as a provider.
    """
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1 and not isinstance(exc, OrchestratorError):
        exc = exc.exceptions[0]
    if isinstance(exc, ProviderError | CircuitOpenError | CapacityError):
        return _own(exc, provider, model)
    with suppress(Exception):  # some exceptions cannot even be printed
        return _mapped(exc, provider, model)
    error = ProviderError(f"{type(exc).__name__} in the provider", provider=provider, model=model)
    error.__cause__ = exc
    return error


def _own(exc: OrchestratorError, provider: str, model: str | None) -> OrchestratorError:
    if exc.recorded:  # one instance raised again and again: the attempts, and the frames, of others are not ours
        again = type(exc).__new__(type(exc), *exc.args)
        again.args = exc.args
        again.__dict__.update(exc.__dict__)
        again.__cause__ = exc.__cause__
        exc.__traceback__ = None
        exc = again
    exc.provider = exc.provider or provider
    exc.model = exc.model or model
    exc.retry_after = seconds(exc.retry_after)
    return exc


def _mapped(exc: BaseException, provider: str, model: str | None) -> OrchestratorError:
    if isinstance(exc, OrchestratorError):
        error = ProviderError(clean(str(exc)), provider=provider, model=model, retry_after=seconds(exc.retry_after))
        error.__cause__ = exc
        return error
    response = getattr(exc, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int) or status < 300:
        return error_from_transport(exc, provider=provider, model=model)
    told = error_from_response(
        status, _headers_of(response), _content_of(response), provider=provider, model=model
    )
    told.__cause__ = exc
    return told


def request_id(headers: Mapping[str, str]) -> str | None:
    """What the provider's support asks for."""
    for name in _REQUEST_IDS:
        value = headers.get(name)
        if value:
            return value[:128]
    return None


def _error(
    failure: Failure, headers: Mapping[str, str], provider: str, model: str | None, secrets: Iterable[str | None]
) -> ProviderError:
    kind = _kind_of(failure, headers)
    wait = None
    if issubclass(kind, RateLimitError | ServerError | TimeoutError):
        wait = retry_after(headers, failure.error, failure.message, limited=failure.status == 429)
    code = failure.code if not failure.code.isdecimal() else failure.kind or failure.code
    secrets = tuple(secrets)
    return kind(
        clean(failure.message, secrets), provider=provider, model=model, status_code=failure.status,
        code=clean(code or failure.kind, secrets)[:64] or None, request_id=request_id(headers), retry_after=wait,
    )


def _kind_of(failure: Failure, headers: Mapping[str, str]) -> Kind:
    status = failure.status
    special = _openrouter(failure) or _groq_too_large(failure) or _no_allowance(failure, headers)
    if special:
        return special
    named = _named(_NAMES, failure)
    if named:
        return named
    text = failure.message[:4000]
    for kind, statuses, pattern in _TEXTS:
        if status in statuses and re.search(pattern, text, re.IGNORECASE):
            return kind
    if status is None:
        return _named(_VAGUE_NAMES, failure) or ServerError
    return _STATUSES.get(status) or (ServerError if status >= 500 else ProviderError)


def _named(names: tuple[tuple[Kind, str], ...], failure: Failure) -> Kind | None:
    for word in (failure.code, failure.kind, failure.detail):
        for kind, pattern in names:
            if word and re.fullmatch(pattern, word):
                return kind
    return None


def _openrouter(failure: Failure) -> Kind | None:
    metadata = failure.metadata
    source = metadata.get("limit_source")
    if source == "openrouter_in_flight_budget":
        return RateLimitError
    if source == "openrouter_free_tier_daily":
        return QuotaExceededError
    if failure.status == 403 and (metadata.get("reasons") or metadata.get("flagged_input")):
        return ContentFilteredError
    if failure.status in {401, 403} and metadata.get("provider_name"):
        return ServerError  # somebody refused OpenRouter's key, not ours
    return None


def _groq_too_large(failure: Failure) -> Kind | None:
    """Groq answers 413 when one request takes more tokens than a minute has; only a smaller need may just wait."""
    limits = re.search(r"limit:? (\d{1,12}),.{0,40}requested:? (\d{1,12})", failure.message, re.IGNORECASE)
    if failure.status == 413 and limits and int(limits.group(2)) <= int(limits.group(1)):
        return RateLimitError
    return None


def _no_allowance(failure: Failure, headers: Mapping[str, str]) -> Kind | None:
    """A 429 that no short wait cures: Mistral's key with an allowance of zero, Gemini's daily quota."""
    if failure.status != 429:
        return None
    daily = "PerDay" in str(failure.error.get("details"))[:8000]
    return QuotaExceededError if daily or headers.get("x-ratelimit-limit-req-minute", "").strip() == "0" else None


def _why(text: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the server's certificate is not trusted; set ca_bundle to a PEM file with its authority ({text})"
    return text


def _headers_of(response: object) -> Mapping[str, str]:
    headers = getattr(response, "headers", None)
    return headers if isinstance(headers, Mapping) else EMPTY


def _content_of(response: object) -> bytes:
    try:
        content = getattr(response, "content", b"")
    except RuntimeError:  # httpx: a stream that was not read
        return b""
    return content if isinstance(content, bytes) else b""
