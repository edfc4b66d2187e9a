"""OpenAI's Chat Completions as a simulated server speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.testing._exchange import (
    Answer,
    Asked,
    Dialect,
    Endpoint,
    Kind,
    Piece,
    RecordedRequest,
    Refusal,
    Tool,
    tokens,
)
from orchestrator.testing.servers._answers import epoch, pick_tool, read_prompt

__all__ = ["OpenAIDialect"]

_CODES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", "server_error"),
    503: ("service_unavailable_error", "server_is_overloaded"),
}


class OpenAIDialect(Dialect):
    """Plain and streamed chat, tools, JSON, the list of models; ``Authorization: Bearer <api key>``."""

    vendor = "openai"
    path = "/v1"
    model = "gpt-simulated"

    def __init__(self, api_key: str) -> None:
        self._authorization = f"Bearer {api_key}"

    def endpoint(self, request: RecordedRequest) -> Endpoint | None:
        """What is at this method and path."""
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            return "chat"
        return "models" if request.method == "GET" and request.path.endswith("/models") else None

    def authorize(self, request: RecordedRequest, endpoint: Endpoint) -> None:  # noqa: ARG002  # the key opens all
        """Only the right key may ask."""
        if request.headers.get("authorization") != self._authorization:
            raise Refusal(401, "Incorrect API key provided")

    def ask(self, request: RecordedRequest) -> Asked:
        """Read a chat request."""
        body = request.json
        for field in ("model", "messages"):
            if not body.get(field):
                raise Refusal(400, f"Missing required parameter: {field!r}", "missing_required_parameter")
        prompt, size = read_prompt(body["messages"], "content")
        functions = [tool["function"] for tool in body.get("tools", ())]
        options = [Tool(function["name"], function.get("parameters", {})) for function in functions]
        choice = body.get("tool_choice")
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        stream = bool(body.get("stream"))
        return Asked(
            prompt, size, body["model"], stream,
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            include_usage=not stream or bool(body.get("stream_options", {}).get("include_usage")),
            tool=pick_tool(options, named, required=choice == "required"),
            schema=_schema(body.get("response_format", {})),
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a plain answer."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        if answer.tool is not None:
            message.update(content=None, tool_calls=[_call(answer, answer.tool)])
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        body = _head(answer, "chat.completion", [choice])
        return {**body, "usage": _usage(answer)} if answer.usage else body

    def pieces(self, answer: Answer) -> Iterator[Piece]:
        """The events of a streamed answer; the usage has its own, and only if it was asked for."""
        yield self._chunk("open", answer, {"role": "assistant", "content": ""})
        if answer.tool is not None:
            for part in _call_parts(_call(answer, answer.tool)):
                yield self._chunk("tool", answer, {"tool_calls": [{"index": 0, **part}]})
        for word in tokens(answer.text):
            yield self._chunk("text", answer, {"content": word})
        yield self._chunk("finish", answer, {}, answer.finish)
        if answer.usage:
            yield Piece("usage", self.event({**_head(answer, "chat.completion.chunk", []), "usage": _usage(answer)}))
        yield Piece("end", b"data: [DONE]\n\n")

    def error(self, status: int, message: str, code: str | int | None) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        kind, usual = _CODES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        if code == "insufficient_quota":
            kind = "insufficient_quota"
        return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}

    def models(self) -> dict[str, Any]:
        """The list of models, which is one."""
        model = {"id": self.model, "object": "model", "created": epoch(), "owned_by": "simulated"}
        return {"object": "list", "data": [model]}

    def _chunk(self, kind: Kind, answer: Answer, delta: Mapping[str, Any], finish: str | None = None) -> Piece:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = _head(answer, "chat.completion.chunk", [choice])
        return Piece(kind, self.event({**body, "usage": None} if answer.usage else body))


def _head(answer: Answer, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.number}", "object": kind, "created": epoch(), "model": answer.model,
        "choices": choices, "system_fingerprint": "fp_simulated",
    }


def _call(answer: Answer, tool: Tool) -> dict[str, Any]:
    arguments = json.dumps(tool.value, ensure_ascii=False)
    function = {"name": tool.name, "arguments": arguments}
    return {"id": f"call_{answer.number}", "type": "function", "function": function}


def _call_parts(call: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The name comes first, then the arguments in two parts."""
    arguments = call["function"]["arguments"]
    middle = len(arguments) // 2
    yield {**call, "function": {**call["function"], "arguments": ""}}
    yield {"function": {"arguments": arguments[:middle]}}
    yield {"function": {"arguments": arguments[middle:]}}


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if wanted.get("type") == "json_schema":
        schema: Mapping[str, Any] = wanted["json_schema"]["schema"]
        return schema
    return {"properties": {"answer": {"type": "string"}}} if wanted.get("type") == "json_object" else None


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
    }
