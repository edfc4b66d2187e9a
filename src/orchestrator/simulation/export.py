"""Calls out of what a program has written about itself: OTLP as JSON, spans as the Python SDK prints them, JSON logs.

Of a span the call is an attempt of this library's router (``orchestrator.attempt.number``), or, where there is none
below it, any GenAI span. Its provider is ``orchestrator.provider.name``, else ``gen_ai.provider.name``, else
``gen_ai.system``; tokens are those of the request, for the attempt that answered it. Of a log line it is the end of a
request (``llm_event``, see :class:`orchestrator.telemetry.logs.LoggingListener`) with one attempt: of more, nobody has
written down how long each took. Left out is what says nothing about the provider: who lost a race or was cancelled,
and errors that are the caller's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from orchestrator.telemetry import semconv

__all__ = ["calls", "values"]

Json = Mapping[str, Any]

_OPERATIONS = {"chat", "text_completion", "generate_content"}
_CALLERS = {"InvalidRequestError", "ContextWindowExceededError", "ContentFilteredError"}
_SYSTEM = "gen_ai.system"  # what gen_ai.provider.name was called before
_TIMES = ("created", "timestamp", "@timestamp", "time", "ts", "asctime")  # of a log line
_MILLISECONDS = 1e11  # Unix seconds stay below for another thousand years


class _Span(NamedTuple):
    """Of whatever format. Unix seconds."""

    id: str
    parent: str | None
    begins: float
    ends: float
    attributes: Json
    failed: bool


def values(text: str) -> Iterator[tuple[int, Any]]:
    """Every JSON value of a text with the line it begins in, one per line or not; raises ``json.JSONDecodeError``."""
    decode = json.JSONDecoder().raw_decode
    place, line, seen = 0, 1, 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        line += text.count("\n", seen, place)
        seen = place
        value, place = decode(text, place)
        yield line, value


def calls(found: Iterable[Json]) -> list[dict[str, Any]] | None:
    """Records of a trace, out of spans or log lines; None where it is neither. Raises ``ValueError`` for broken ones.

    A file of log lines may hold other lines, too.
    """
    objects = list(found)
    if any("llm_event" in each for each in objects):
        return [call for each in objects if each.get("llm_event") == "request_ended" and (call := _logged(each))]
    spans = [span for each in objects for span in _spans(each)]
    if not spans:
        return [] if any("resourceSpans" in each for each in objects) else None
    return list(_of_spans(spans))


def _spans(found: Json) -> Iterator[_Span]:
    if "resourceSpans" in found:
        for resource in found["resourceSpans"]:
            for scope in resource.get("scopeSpans", ()):
                yield from map(_otlp, scope.get("spans", ()))
    elif "context" in found and "start_time" in found:
        yield _Span(
            found["context"]["span_id"], found.get("parent_id"), _time(found["start_time"]), _time(found["end_time"]),
            found.get("attributes") or {}, (found.get("status") or {}).get("status_code") == "ERROR",
        )


def _otlp(span: Json) -> _Span:
    attributes = {each["key"]: _value(each.get("value") or {}) for each in span.get("attributes", ())}
    begins, ends = (int(span[name]) / 1e9 for name in ("startTimeUnixNano", "endTimeUnixNano"))
    failed = (span.get("status") or {}).get("code") in {2, "STATUS_CODE_ERROR"}
    return _Span(span["spanId"], span.get("parentSpanId") or None, begins, ends, attributes, failed)


def _value(told: Json) -> Any:  # noqa: ANN401  # as OTLP's AnyValue
    if "intValue" in told:
        return int(told["intValue"])  # JSON has no 64 bits: it comes as text
    return next((told[kind] for kind in ("stringValue", "doubleValue", "boolValue") if kind in told), None)


def _of_spans(spans: list[_Span]) -> Iterator[dict[str, Any]]:
    by_id = {span.id: span for span in spans}
    attempts = [span for span in spans if semconv.ORCHESTRATOR_ATTEMPT_NUMBER in span.attributes]
    above = {span.parent for span in attempts}
    for span in attempts:
        request = by_id.get(span.parent or "")
        answered = span.attributes.get(semconv.ORCHESTRATOR_OUTCOME) == "answer"
        yield from _record(span, request.attributes if answered and request is not None else {},
                           span.attributes.get(semconv.ORCHESTRATOR_ATTEMPT_TIME_TO_FIRST_TOKEN))
    for span in spans:
        told = span.attributes
        if told.get(semconv.GEN_AI_OPERATION_NAME) in _OPERATIONS and span.id not in above:
            yield from _record(span, told, told.get(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK))


def _record(span: _Span, tokens: Json, first: float | None) -> Iterator[dict[str, Any]]:
    told = span.attributes
    provider = next(
        (told[name] for name in (semconv.ORCHESTRATOR_PROVIDER_NAME, semconv.GEN_AI_PROVIDER_NAME, _SYSTEM)
         if told.get(name)), None,
    )
    if provider is None or told.get(semconv.ORCHESTRATOR_OUTCOME) == "cancelled":
        return
    if told.get(semconv.ERROR_TYPE) in _CALLERS:
        return
    yield {
        "at": span.begins, "provider": provider, "first_token": first, "duration": max(0.0, span.ends - span.begins),
        "prompt_tokens": tokens.get(semconv.GEN_AI_USAGE_INPUT_TOKENS) or 0,
        "completion_tokens": tokens.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS) or 0,
        "ok": not (span.failed or told.get(semconv.ERROR_TYPE)),
    }


def _logged(told: Json) -> dict[str, Any] | None:
    outcome = told.get("llm_outcome")
    if told.get("llm_attempts") != 1 or outcome == "cancelled" or told.get("llm_error_type") in _CALLERS:
        return None
    written = next((told[name] for name in _TIMES if told.get(name) is not None), None)
    if written is None:
        raise ValueError(f"a log line without a time; known are {', '.join(_TIMES)}")
    return {
        "at": _time(written) - told["llm_duration"], "provider": told["llm_provider"],
        "first_token": told.get("llm_time_to_first_token"), "duration": told["llm_duration"],
        "prompt_tokens": told.get("llm_input_tokens") or 0, "completion_tokens": told.get("llm_output_tokens") or 0,
        "ok": outcome == "answer",
    }


def _time(written: float | str) -> float:
    """Unix seconds, of the same, of milliseconds, or of ISO 8601; without a zone it is UTC."""
    if isinstance(written, str):
        read = datetime.fromisoformat(written)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    return written / 1000 if written > _MILLISECONDS else float(written)
