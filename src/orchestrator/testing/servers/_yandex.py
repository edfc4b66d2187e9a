"""YandexGPT's native API (foundationModels v1) as a simulated server speaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from orchestrator.testing._exchange import (
    Answer,
    Asked,
    Dialect,
    Endpoint,
    Piece,
    RecordedRequest,
    Refusal,
    Tool,
    dump,
    status_text,
    tokens,
)
from orchestrator.testing.servers._answers import pick_tool, read_prompt

__all__ = ["YandexDialect"]

_MODEL = re.compile(r"gpt://(?P<folder>[^/]+)/(?P<model>[^/]+)(?:/[^/]+)?")
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14, 504: 4}
_STATUS = {"stop": "FINAL", "length": "TRUNCATED_FINAL", "tool_calls": "TOOL_CALLS", "content_filter": "CONTENT_FILTER"}


class YandexDialect(Dialect):
    """Plain and streamed completion, tools, JSON; ``Authorization: Api-Key <key>`` or ``Bearer <key>``.

    A stream is lines of JSON, each with the whole text so far; counts are strings.
    """

    vendor = "yandex"
    path = "/foundationModels/v1"
    model = "yandexgpt-lite"
    stream_type = "application/json"
    keep_alive = b"\n"

    def __init__(self, api_key: str, folder_id: str) -> None:
        self._authorizations = (f"Api-Key {api_key}", f"Bearer {api_key}")
        self._folder_id = folder_id

    def endpoint(self, request: RecordedRequest) -> Endpoint | None:
        """What is at this method and path."""
        if request.method == "POST" and request.path.endswith("/foundationModels/v1/completion"):
            return "chat"
        return "models" if request.method == "GET" and request.path.endswith("/v1/models") else None

    def authorize(self, request: RecordedRequest, endpoint: Endpoint) -> None:  # noqa: ARG002  # the key opens all
        """Only the right key or token may ask."""
        if request.headers.get("authorization") not in self._authorizations:
            raise Refusal(401, "Unknown api key or token")

    def ask(self, request: RecordedRequest) -> Asked:
        """Read a completion request."""
        body = request.json
        options = body.get("completionOptions", {})
        model = self._check_model(body["modelUri"])
        if not 0 <= options.get("temperature", 0) <= 1:
            raise Refusal(400, "temperature must be in [0, 1]")
        prompt, size = read_prompt(body["messages"], "text")
        functions = [tool["function"] for tool in body.get("tools", ())]
        tools = [Tool(function["name"], function.get("parameters", {})) for function in functions]
        choice = body.get("toolChoice", {})
        limit = options.get("maxTokens")
        schema = body["jsonSchema"]["schema"] if "jsonSchema" in body else None
        if body.get("jsonObject"):
            schema = {"properties": {"answer": {"type": "string"}}}
        return Asked(
            prompt, size, model, bool(options.get("stream")), None if limit is None else int(limit),
            tool=pick_tool(tools, choice.get("functionName"), required=choice.get("mode") == "REQUIRED"),
            schema=schema,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a plain answer."""
        return _line(answer, answer.text, _STATUS[answer.finish], answer.completion_tokens)

    def pieces(self, answer: Answer) -> Iterator[Piece]:
        """The lines of a streamed answer."""
        words = tokens(answer.text)
        for count in range(1, len(words) + 1):
            yield Piece("text", self.event(_line(answer, "".join(words[:count]), "PARTIAL", count)))
        last = answer if answer.last is None else replace(answer, text=answer.last)
        yield Piece("finish", self.event(self.whole(last)))

    def event(self, value: Any) -> bytes:  # noqa: ANN401  # JSON
        """A line."""
        return dump(value) + b"\n"

    def error(self, status: int, message: str, code: str | int | None) -> dict[str, Any]:
        """The error of a gRPC gateway."""
        grpc = code if isinstance(code, int) else _GRPC.get(status, 2)
        return {"error": {
            "grpcCode": grpc, "httpCode": status, "message": message, "httpStatus": status_text(status), "details": [],
        }}

    def models(self) -> dict[str, Any]:
        """The list of models, which is one; it belongs to the OpenAI-style API."""
        model = {"id": f"gpt://{self._folder_id}/{self.model}/latest", "object": "model", "owned_by": "yandex"}
        return {"object": "list", "data": [model]}

    def _check_model(self, uri: str) -> str:
        found = _MODEL.fullmatch(uri)
        if found is None:
            raise Refusal(400, f"invalid model_uri {uri!r}")
        if found["folder"] != self._folder_id:
            raise Refusal(403, f"permission denied on folder {found['folder']!r}")
        return found["model"]


def _line(answer: Answer, text: str, status: str, count: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "text": text}
    if status == "TOOL_CALLS" and answer.tool is not None:
        call = {"functionCall": {"name": answer.tool.name, "arguments": answer.tool.value}}
        message = {"role": "assistant", "toolCallList": {"toolCalls": [call]}}
    result: dict[str, Any] = {
        "alternatives": [{"message": message, "status": f"ALTERNATIVE_STATUS_{status}"}], "modelVersion": "18.02.2026",
    }
    if answer.usage:
        result["usage"] = {
            "inputTextTokens": str(answer.prompt_tokens), "completionTokens": str(count),
            "totalTokens": str(answer.prompt_tokens + count), "completionTokensDetails": {"reasoningTokens": "0"},
        }
    return {"result": result}
