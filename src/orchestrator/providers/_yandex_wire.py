"""YandexGPT's native dialect (foundationModels v1), without I/O: from a request to its JSON, and back to our types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from orchestrator.core.surrogates import Halves
from orchestrator.core.types import (
    Completion,
    Finished,
    FinishReason,
    Message,
    Request,
    StreamEvent,
    TextDelta,
    Tool,
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
from orchestrator.providers._sse import NDJSONDecoder

__all__ = ["SUPPORTS", "StreamDecoder", "decode", "encode", "model_uri", "refused_field"]

SUPPORTS = frozenset({
    "temperature", "max_tokens", "messages", "tools", "tool_choice", "json_object", "json_schema",
})

_STATUS = "ALTERNATIVE_STATUS_"
_PARTIAL = _STATUS + "PARTIAL"
_FINISH: Mapping[str, FinishReason] = {
    _STATUS + "FINAL": "stop",
    _STATUS + "TRUNCATED_FINAL": "length",
    _STATUS + "TOOL_CALLS": "tool_calls",
    _STATUS + "CONTENT_FILTER": "content_filter",
}


def model_uri(folder: str, model: str) -> str:
    """``gpt://folder/model/latest``; a model that already is a URI stays as it is, and so does its branch."""
    if model.startswith("gpt://"):
        return model
    return f"gpt://{folder}/{model}" if "/" in model else f"gpt://{folder}/{model}/latest"


def refused_field(request: Request) -> str | None:
    """The field YandexGPT cannot carry although ``SUPPORTS`` names its kind, or None."""
    params = request.params
    if params is not None and params.temperature is not None and params.temperature > 1:
        return "temperature"
    return speaker_name(request.messages) or odd_arguments(request.messages)


def encode(request: Request, *, uri: str, stream: bool, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a completion request; ``extra`` are further fields of it, which those of the request override."""
    options: dict[str, Any] = {**extra.get("completionOptions", {}), "stream": stream}
    body: dict[str, Any] = {**extra, "modelUri": uri, "completionOptions": options}
    body["messages"] = _messages(request.messages)
    if request.params is not None:
        if request.params.temperature is not None:
            options["temperature"] = request.params.temperature
        if request.params.max_tokens is not None:
            options["maxTokens"] = str(request.params.max_tokens)  # int64, which proto3 writes as a string
    if request.tools:
        body["tools"] = [{"function": _function(tool)} for tool in request.tools]
    if request.tool_choice is not None:
        body["toolChoice"] = _tool_choice(request.tool_choice)
    wanted = request.response_format
    if wanted is not None and wanted.schema is None:
        body["jsonObject"] = True
    elif wanted is not None:
        body["jsonSchema"] = {"schema": described_schema(wanted)}
    return body


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    encoded: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for are_results, group in groupby(enumerate(messages), _is_result):
        if are_results:
            encoded.append(_tool_results(group, names))
            continue
        for index, message in group:
            # A message holds a text or calls, never both.
            if message.text or not message.tool_calls:
                encoded.append({"role": message.role, "text": message.text})
            if message.tool_calls:
                encoded.append(_tool_calls(message, index))
                # The newest calls last, in their order, as ids may repeat from turn to turn.
                for call in message.tool_calls:
                    names.pop(call.id, None)
                    names[call.id] = call.name
    return encoded


def _is_result(item: tuple[int, Message]) -> bool:
    return item[1].role == "tool"


def _tool_calls(message: Message, index: int) -> dict[str, Any]:
    calls = [
        {"functionCall": {
            "name": call.name,
            "arguments": arguments_object(call, f"messages[{index}].tool_calls[{number}]"),
        }}
        for number, call in enumerate(message.tool_calls)
    ]
    return {"role": "assistant", "toolCallList": {"toolCalls": calls}}


def _tool_results(group: Iterable[tuple[int, Message]], names: Mapping[str, str]) -> dict[str, Any]:
    # Results belong to calls by name and order, so they are put into the order of the calls.
    order = {call_id: number for number, call_id in enumerate(names)}
    results = []
    for index, message in group:
        name = tool_name(message, f"messages[{index}]", names)
        result = {"functionResult": {"name": name, "content": message.text}}
        results.append((order.get(message.tool_call_id or "", len(order)), result))
    results.sort(key=itemgetter(0))
    return {"role": "user", "toolResultList": {"toolResults": [result for _, result in results]}}


def _function(tool: Tool) -> dict[str, Any]:
    declared = function(tool)
    if tool.strict is not None:
        declared["strict"] = tool.strict
    return declared


def _tool_choice(choice: ToolChoice) -> dict[str, str]:
    if choice.mode == "named":
        return {"functionName": choice.name or ""}
    return {"mode": choice.mode.upper()}


def decode(payload: object, source: Source) -> Completion:
    """The completion of a plain reply."""
    result = _result(payload, source)
    message, status = _alternative(result, source)
    calls = _calls(message, source)
    return Completion(
        source.text(message, "text"),
        model=source.model,
        provider=source.provider,
        finish_reason=_finish_reason(status, source, called=bool(calls)),
        usage=_usage(result.get("usage")),
        tool_calls=calls,
        request_id=source.request_id,
        raw=payload,
    )


class StreamDecoder:
    """Turns a stream of lines, each with the whole text so far, into its events; ``done`` after the final line."""

    __slots__ = ("_calls", "_lines", "_source", "_status", "_text", "_usage", "done")

    def __init__(self, source: Source) -> None:
        self._lines = NDJSONDecoder(source.limits.line, source.limits.events)
        self._source = source
        self._text = ""
        self._status = ""
        self._usage: Usage | None = None
        self._calls: tuple[ToolCall, ...] = ()
        self.done = False

    @property
    def usage(self) -> Usage | None:
        """The tokens told so far."""
        return self._usage

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """What the next bytes add."""
        for line in self._lines.feed(chunk):
            yield from self._take(line)

    def _take(self, line: str) -> list[StreamEvent]:
        if self.done:
            return []
        source = self._source
        result = _result(source.parse(line), source)
        message, status = _alternative(result, source)
        self._usage = _usage(result.get("usage")) or self._usage
        self._status = status
        self.done = status != _PARTIAL
        if _FINISH.get(status) == "content_filter":
            return []  # the text of this line is the filter's, not the model's
        text = source.text(message, "text")
        pieces = self._added(text if text.isascii() else self._encodable(text))
        if self.done:
            self._calls = _calls(message, source)
            pieces += (ToolCallDelta(n, call.id, call.name, call.arguments) for n, call in enumerate(self._calls))
        return pieces

    def _encodable(self, text: str) -> str:
        """Half a surrogate pair at the end is left to the next line, which has the whole text once more."""
        halves = Halves()
        text = halves.join(text)
        return text + halves.rest() if self.done else text

    def _added(self, text: str) -> list[StreamEvent]:
        known = self._text
        if text.startswith(known):
            self._text = text
            return [TextDelta(text[len(known):])] if len(text) > len(known) else []
        if self.done:
            # What was handed out cannot be taken back, and is not what the model says in the end.
            raise self._source.malformed("the last line of the stream rewrites the text of the lines before it")
        return []  # a later line may return to it; the last one decides

    def finish(self) -> Iterator[StreamEvent]:
        """The rest, ``Finished`` last, once the stream has ended; :class:`MalformedResponseError` when it was cut."""
        for line in self._lines.finish():  # the last line may have no end
            yield from self._take(line)
        source = self._source
        if not self.done:
            raise source.malformed("the stream ended without a final line: the answer is cut")
        reason = _finish_reason(self._status, source, called=bool(self._calls))
        yield Finished(Completion(
            "", model=source.model, provider=source.provider, finish_reason=reason, usage=self._usage,
            request_id=source.request_id,
        ))


def _result(payload: object, source: Source) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise source.malformed("the reply is no JSON object")
    result = payload.get("result", payload)
    if not isinstance(result, dict) or "alternatives" not in result:
        if "error" in payload or "message" in payload:
            raise source.told_error(payload)
        raise source.malformed("the reply has no alternatives")
    return result


def _alternative(result: dict[str, Any], source: Source) -> tuple[dict[str, Any], str]:
    alternatives = result["alternatives"]
    first = alternatives[0] if isinstance(alternatives, list) and alternatives else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise source.malformed("the reply has no alternative with a message")
    return message, source.text(first, "status")


def _calls(message: dict[str, Any], source: Source) -> tuple[ToolCall, ...]:
    listed = message.get("toolCallList")
    calls = listed.get("toolCalls") if isinstance(listed, dict) else None
    if not isinstance(calls, list):
        return ()
    if len(calls) > source.limits.tool_calls:
        raise source.malformed(f"the reply has more than {source.limits.tool_calls} tool calls")
    return tuple(
        source.call(f"call_{number}", call.get("functionCall") if isinstance(call, dict) else None)
        for number, call in enumerate(calls)
    )


def _finish_reason(status: str, source: Source, *, called: bool) -> FinishReason:
    known = _FINISH.get(status)
    if known is None:
        raise source.malformed(f"the answer has the status {source.quoted(status)}")
    return "tool_calls" if called and known == "stop" else known


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("completionTokensDetails")
    reasoning = details.get("reasoningTokens") if isinstance(details, dict) else None
    return Usage(
        count(usage.get("inputTextTokens")), count(usage.get("completionTokens")), reasoning_tokens=count(reasoning)
    )
