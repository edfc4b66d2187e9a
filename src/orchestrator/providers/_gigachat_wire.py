"""GigaChat's chat dialect (v1), without I/O: from a request to its JSON, from its JSON and stream to our types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.surrogates import Halves, whole
from orchestrator.core.types import (
    Completion,
    Finished,
    FinishReason,
    Message,
    ReasoningDelta,
    Request,
    ResponseFormat,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from orchestrator.providers._conversation import (
    Source,
    arguments_object,
    count,
    described_schema,
    function,
    odd_arguments,
    speaker_name,
    tool_name,
)
from orchestrator.providers._sse import SSEDecoder

__all__ = ["SUPPORTS", "StreamDecoder", "decode", "encode", "refused_field"]

SUPPORTS = frozenset({"temperature", "max_tokens", "top_p", "messages", "tools", "tool_choice", "json_schema"})

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop", "length": "length", "function_call": "tool_calls", "blacklist": "content_filter",
}


def refused_field(request: Request) -> str | None:
    """The field GigaChat cannot carry although ``SUPPORTS`` names its kind, or None."""
    if request.tool_choice is not None and request.tool_choice.mode == "required":
        return "tool_choice"
    for index, tool in enumerate(request.tools):
        if tool.strict:
            return f"tools[{index}].strict"
    messages = request.messages
    for index, message in enumerate(messages):
        if index and message.role == "system" and messages[index - 1].role != "system":
            return f"messages[{index}].role"
        if len(message.tool_calls) > 1:
            return f"messages[{index}].tool_calls"
    return speaker_name(messages) or odd_arguments(messages)


def encode(request: Request, *, model: str, stream: bool, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat request; ``extra`` are further fields of it, which those of the request override."""
    body: dict[str, Any] = {**extra, "model": model, "messages": _messages(request.messages)}
    if request.params is not None:
        body |= request.params.given()
        if request.params.temperature == 0:
            # The temperature must be above 0; a nucleus of nothing but the likeliest token is what 0 asks for.
            del body["temperature"]
            body["top_p"] = 0
    if request.tools:
        body["functions"] = [function(tool) for tool in request.tools]
    choice = _function_call(request.tool_choice, bool(request.tools))
    if choice is not None:
        body["function_call"] = choice
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)
    if stream:
        body["stream"] = True
    return body


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    encoded: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        if message.role == "system":
            _add_system(encoded, message, index)
        elif message.role == "assistant":
            encoded.append(_assistant(message, index))
            names.update((call.id, call.name) for call in message.tool_calls)
        elif message.role == "tool":
            name = tool_name(message, f"messages[{index}]", names)
            encoded.append({"role": "function", "name": name, "content": _json_text(message.text)})
        else:
            encoded.append({"role": "user", "content": message.text})
    return encoded


def _add_system(encoded: list[dict[str, Any]], message: Message, index: int) -> None:
    # Only the first message may be a system one: those that follow it directly are joined to it, and one that comes
    # later is refused, as moving it to the front would change the conversation.
    if not encoded:
        encoded.append({"role": "system", "content": message.text})
    elif len(encoded) == 1 and encoded[0]["role"] == "system":
        encoded[0]["content"] += "\n\n" + message.text
    else:
        raise InvalidRequestError(f"messages[{index}].role: GigaChat takes a system message only at the beginning")


def _assistant(message: Message, index: int) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": "assistant", "content": message.text}
    if message.tool_calls:
        where = f"messages[{index}].tool_calls"
        if len(message.tool_calls) > 1:
            raise InvalidRequestError(f"{where}: GigaChat takes one call per message, not {len(message.tool_calls)}")
        call = message.tool_calls[0]
        encoded["function_call"] = {"name": call.name, "arguments": arguments_object(call, f"{where}[0]")}
        if _is_state_id(call.id):
            encoded["functions_state_id"] = call.id
    return encoded


def _is_state_id(call_id: str) -> bool:
    # State ids are UUIDs. A call that another provider made, before a failover, has an id unknown to GigaChat.
    try:
        UUID(call_id)
    except ValueError:
        return False
    return True


def _json_text(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text


def _function_call(choice: ToolChoice | None, tools: bool) -> str | dict[str, str] | None:  # noqa: FBT001
    if choice is None:
        return "auto" if tools else None
    if choice.mode == "named":
        return {"name": choice.name or ""}
    # Without functions of the user's, "auto" would let the model call GigaChat's own ones.
    return choice.mode if tools else None


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    encoded = {"type": "json_schema", "schema": described_schema(wanted)}
    return encoded if wanted.strict is None else {**encoded, "strict": wanted.strict}


def decode(payload: object, source: Source) -> Completion:
    """The completion of a plain reply."""
    choice = _choice(payload, source)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(payload, dict) or not isinstance(message, dict):
        raise source.malformed("the reply has no choice with a message")
    call = _call(message, source)
    return Completion(
        source.text(message, "content"),
        model=whole(source.text(payload, "model")) or source.model,
        provider=source.provider,
        finish_reason=_finish_reason(choice.get("finish_reason") or "stop", source, called=call is not None),
        usage=_usage(payload.get("usage")),
        tool_calls=() if call is None else (call,),
        reasoning=source.text(message, "reasoning_content"),
        request_id=source.request_id,
        raw=payload,
    )


class StreamDecoder:
    """Turns the bytes of a stream into its events; ``done`` when nothing more is to come."""

    __slots__ = (
        "_called", "_frames", "_halves", "_model", "_reason", "_source", "_thoughts", "_usage", "done",
    )

    def __init__(self, source: Source) -> None:
        self._frames = SSEDecoder(source.limits.line, source.limits.events)
        self._source = source
        self._halves = Halves()
        self._thoughts = Halves()
        self._model = source.model
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._called = False
        self.done = False

    @property
    def usage(self) -> Usage | None:
        """The tokens told so far."""
        return self._usage

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """What the next bytes carry."""
        for data in self._frames.feed(chunk):
            yield from self._take(data)

    def _take(self, data: str) -> list[StreamEvent]:
        if not data:
            return []
        if self.done or data == "[DONE]":
            self.done = True
            return []
        source = self._source
        payload = source.parse(data)
        choice = _choice(payload, source)
        if "usage" in payload:
            self._usage = _usage(payload["usage"]) or self._usage
        if choice is None:
            return []
        self._model = whole(source.text(payload, "model")) or self._model
        self._reason = choice.get("finish_reason") or self._reason
        # The usage comes with the finish reason: once both are here, a missing [DONE] is not waited for.
        self.done = self._reason is not None and self._usage is not None
        delta = choice.get("delta")
        return self._pieces(delta) if isinstance(delta, dict) else []

    def _pieces(self, delta: dict[str, Any]) -> list[StreamEvent]:
        pieces: list[StreamEvent] = []
        reasoning = self._thoughts.join(self._source.text(delta, "reasoning_content"))
        if reasoning:
            pieces.append(ReasoningDelta(reasoning))
        text = self._source.text(delta, "content")
        if self._halves.held or not text.isascii():
            text = self._halves.join(text)
        if text and self._reason != "blacklist":  # that text is the filter's, not the model's
            pieces.append(TextDelta(text))
        call = _call(delta, self._source)
        if call is not None:
            self._called = True
            pieces.append(ToolCallDelta(0, call.id, call.name, call.arguments))
        return pieces

    def finish(self) -> Iterator[StreamEvent]:
        """``Finished``, once the stream has ended; :class:`MalformedResponseError` when it was cut."""
        source = self._source
        if self._reason is None:
            raise source.malformed("the stream ended without a finish reason: the answer is cut")
        reason = _finish_reason(self._reason, source, called=self._called)
        if self._halves.held:
            yield TextDelta(self._halves.rest())
        yield Finished(Completion(
            "", model=self._model, provider=source.provider, finish_reason=reason, usage=self._usage,
            request_id=source.request_id,
        ))


def _choice(payload: object, source: Source) -> dict[str, Any] | None:
    if not isinstance(payload, dict):
        raise source.malformed("the reply is no JSON object")
    choices = payload.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    if "message" in payload or "error" in payload:
        # An error inside a success status: {"status": 500, "message": "…"}.
        raise source.told_error(payload)
    return None


def _call(message: dict[str, Any], source: Source) -> ToolCall | None:
    function_call = message.get("function_call")
    if function_call is None:
        return None
    return source.call(whole(source.text(message, "functions_state_id")) or "call_0", function_call)


def _finish_reason(reason: object, source: Source, *, called: bool) -> FinishReason:
    known = _FINISH.get(reason) if isinstance(reason, str) else None
    if known is None:
        raise source.malformed(f"the answer was ended by {source.quoted(reason)}")
    return "tool_calls" if called and known == "stop" else known


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    # GigaChat counts the cached tokens beside the prompt's, not among them.
    cached = count(usage.get("precached_prompt_tokens"))
    return Usage(count(usage.get("prompt_tokens")) + cached, count(usage.get("completion_tokens")), cached)
