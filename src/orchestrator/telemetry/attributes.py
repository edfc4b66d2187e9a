"""What spans and metrics say about a request, an attempt, an error: attributes by the names in ``semconv``."""

from __future__ import annotations

from orchestrator.core.errors import StreamInterruptedError
from orchestrator.core.events import AttemptEnded, AttemptStarted, RequestEnded, RequestStarted
from orchestrator.core.types import Attempt, Usage
from orchestrator.telemetry import semconv

__all__ = ["Attributes", "answered", "asked", "attempted", "decisive", "ended", "failed", "operation", "usage_of"]

Attributes = dict[str, str | bool | int | float | tuple[str, ...]]

_PARAMS = {
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "stop": semconv.GEN_AI_REQUEST_STOP_SEQUENCES,
    "seed": semconv.GEN_AI_REQUEST_SEED,
}


def operation(provider: str | None, model: str | None) -> Attributes:
    """What every record of a GenAI operation says."""
    attributes: Attributes = {semconv.GEN_AI_OPERATION_NAME: semconv.OPERATION_CHAT}
    if provider:
        attributes[semconv.GEN_AI_PROVIDER_NAME] = semconv.PROVIDER_NAMES.get(provider, provider)
    if model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = model
    return attributes


def decisive(event: RequestEnded) -> Attempt | None:
    """The attempt that answered; else the last one, but for those that lost a race."""
    name = event.completion.provider if event.completion is not None else None
    ran = [attempt for attempt in event.attempts if not attempt.lost]
    answered = [attempt for attempt in ran if attempt.provider == name and attempt.error is None]
    chosen = answered or ran or event.attempts
    return chosen[-1] if chosen else None


def ended(event: RequestEnded) -> Attributes:
    """The operation of a request that ended: by the provider and the model of its decisive attempt, if there was one.

    See :func:`decisive`.
    """
    last = decisive(event)
    attributes = operation(last.provider, last.model) if last is not None else operation(None, None)
    if event.completion is not None and event.completion.model:
        attributes[semconv.GEN_AI_RESPONSE_MODEL] = event.completion.model
    return attributes


def asked(event: RequestStarted) -> Attributes:
    """What is known when a request starts, for samplers to decide on."""
    attributes = operation(None, None)
    attributes[semconv.ORCHESTRATOR_STRATEGY] = event.strategy
    if event.stream:
        attributes[semconv.GEN_AI_REQUEST_STREAM] = True
    if event.asked.response_format is not None:
        attributes[semconv.GEN_AI_OUTPUT_TYPE] = semconv.OUTPUT_TYPE_JSON
    if event.asked.params is not None:
        for name, value in event.asked.params.given().items():
            attributes[_PARAMS[name]] = value
    return attributes


def answered(event: RequestEnded) -> Attributes:
    """What a request's span says at its end."""
    attributes = ended(event)
    attributes[semconv.ORCHESTRATOR_OUTCOME] = event.outcome
    attributes[semconv.ORCHESTRATOR_ATTEMPT_COUNT] = len(event.attempts)
    last = decisive(event)
    if last is not None:
        attributes[semconv.ORCHESTRATOR_PROVIDER_NAME] = last.provider
    completion = event.completion
    if completion is not None:
        attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = (completion.finish_reason,)
        if completion.request_id:
            attributes[semconv.GEN_AI_RESPONSE_ID] = completion.request_id
        if completion.time_to_first_token is not None:
            attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = completion.time_to_first_token
    usage = usage_of(event)
    if usage is not None:
        attributes |= _tokens(usage)
    return attributes


def attempted(event: AttemptStarted) -> Attributes:
    """What an attempt's span says at its start. Nothing of ``gen_ai``: the operation is the request."""
    attributes: Attributes = {
        semconv.ORCHESTRATOR_PROVIDER_NAME: event.provider, semconv.ORCHESTRATOR_ATTEMPT_NUMBER: event.number,
    }
    if event.model:
        attributes[semconv.ORCHESTRATOR_ATTEMPT_MODEL] = event.model
    if event.hedge:
        attributes[semconv.ORCHESTRATOR_ATTEMPT_HEDGE] = True
    return attributes


def failed(event: AttemptEnded) -> Attributes:
    """What an attempt's span, or the count of attempts, says at its end."""
    attributes: Attributes = {semconv.ORCHESTRATOR_OUTCOME: event.outcome}
    if event.attempt.error is not None:
        attributes[semconv.ERROR_TYPE] = type(event.attempt.error).__name__
    return attributes


def usage_of(event: RequestEnded) -> Usage | None:
    """The tokens of the request: of its answer, or of what came of it before the stream broke."""
    if event.completion is not None:
        return event.completion.usage
    return event.error.usage if isinstance(event.error, StreamInterruptedError) else None


def _tokens(usage: Usage) -> Attributes:
    attributes: Attributes = {
        semconv.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
    }
    if usage.cached_tokens:
        attributes[semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS] = usage.cached_tokens
    if usage.reasoning_tokens:
        attributes[semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS] = usage.reasoning_tokens
    return attributes
