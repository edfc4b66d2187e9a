"""GigaChat (chat v1 and its OAuth) as a simulated server speaks it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from orchestrator.core.clock import now, wall_clock
from orchestrator.testing._exchange import (
    Answer,
    Asked,
    Dialect,
    Endpoint,
    Kind,
    Piece,
    RecordedRequest,
    Refusal,
    Reply,
    Tool,
    dump,
    tokens,
)
from orchestrator.testing.servers._answers import epoch, pick_tool, read_prompt

__all__ = ["GigaChatDialect"]

_SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")
_FINISH = {"tool_calls": "function_call", "content_filter": "blacklist"}


class GigaChatDialect(Dialect):
    """Plain and streamed chat, functions, JSON by schema, the list of models, tokens that expire.

    ``token_life`` is in seconds and ``scope`` what the key was issued for. A token is told to expire in milliseconds
    of Unix time, but expires by the loop's clock.
    """

    vendor = "gigachat"
    path = "/api/v1"
    model = "GigaChat-2"

    def __init__(self, api_key: str, *, token_life: float, scope: str = _SCOPES[0]) -> None:
        self._basic = f"Basic {api_key}"
        self.token_life = token_life
        self.scope = scope
        self._issued = 0
        self._expiry: dict[str, float] = {}

    def endpoint(self, request: RecordedRequest) -> Endpoint | None:
        """What is at this method and path."""
        if request.method == "POST" and request.path.endswith("/oauth"):
            return "token"
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            return "chat"
        return "models" if request.method == "GET" and request.path.endswith("/models") else None

    def authorize(self, request: RecordedRequest, endpoint: Endpoint) -> None:
        """A User-Agent, and, but for the OAuth endpoint, a token that has not expired."""
        if "user-agent" not in request.headers:
            raise Refusal(403, "Unauthorized")
        if endpoint == "token":
            return
        expiry = self._expiry.get(request.headers.get("authorization", ""))
        if expiry is None:
            raise Refusal(401, "Unauthorized")
        if expiry <= now():
            raise Refusal(401, "Token has expired")

    def expire_tokens(self) -> None:
        """All tokens expire at once, before their time."""
        self._expiry = dict.fromkeys(self._expiry, now())

    def serve(self, request: RecordedRequest, endpoint: Endpoint) -> Reply:
        """The list of models, or a new token for who shows the key, an id of the request and the right scope."""
        if endpoint != "token":
            return super().serve(request, endpoint)
        self._check_key(request)
        self._check_scope(request)
        self._issued += 1
        token = f"simulated-token-{self._issued}"
        self._expiry[f"Bearer {token}"] = now() + self.token_life
        issued = int(wall_clock())
        return Reply(
            self, 200, dump({"access_token": token, "expires_at": round((issued + self.token_life) * 1000)}),
            {"date": formatdate(issued, usegmt=True)},
        )

    def _check_key(self, request: RecordedRequest) -> None:
        try:
            UUID(request.headers.get("rquid", ""))
        except ValueError:
            raise Refusal(400, "RqUID is missing or not a UUID", 1) from None
        given = request.headers.get("authorization", "")
        try:
            base64.b64decode(given.removeprefix("Basic "), validate=True)
        except binascii.Error:
            raise Refusal(401, "Can't decode 'Authorization' header", 4) from None
        if given != self._basic:
            raise Refusal(401, "credentials doesn't match db data", 6)

    def _check_scope(self, request: RecordedRequest) -> None:
        scope = parse_qs(request.body.decode("utf-8", "replace")).get("scope", [""])[0]
        if not scope:
            raise Refusal(400, "scope is empty", 5)
        if scope not in _SCOPES:
            raise Refusal(400, "scope data format invalid", 1)
        if scope != self.scope:
            raise Refusal(400, "scope from db not fully includes consumed scope", 7)

    def ask(self, request: RecordedRequest) -> Asked:
        """Read a chat request."""
        body = request.json
        messages = body["messages"]
        _check_messages(messages)
        prompt, size = read_prompt(messages, "content")
        functions = body.get("functions", ())
        options = [Tool(function["name"], function.get("parameters", {})) for function in functions]
        choice = body.get("function_call")
        named = choice["name"] if isinstance(choice, dict) else None
        wanted = body.get("response_format", {})
        return Asked(
            prompt, size, body["model"], bool(body.get("stream")), body.get("max_tokens"),
            tool=pick_tool(options, named, required=False),
            schema=wanted["schema"] if wanted.get("type") == "json_schema" else None,
        )

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a plain answer; it has no id."""
        message = {"role": "assistant", "content": answer.text, **_call(answer)}
        body = _body(answer, {"message": message, "index": 0, "finish_reason": _finish(answer)})
        return {**body, "usage": _usage(answer)} if answer.usage else body

    def pieces(self, answer: Answer) -> Iterator[Piece]:
        """The events of a streamed answer; the last of them has the usage."""
        if answer.tool is not None:
            yield self._chunk("tool", answer, {"content": "", "role": "assistant", **_call(answer)})
        for number, word in enumerate(tokens(answer.text)):
            yield self._chunk("text", answer, {"content": word} if number else {"content": word, "role": "assistant"})
        last = _body(answer, {"delta": {"content": ""}, "index": 0, "finish_reason": _finish(answer)})
        yield Piece("finish", self.event({**last, "usage": _usage(answer)} if answer.usage else last))
        yield Piece("end", b"data: [DONE]\n\n")

    def error(self, status: int, message: str, code: str | int | None) -> dict[str, Any]:
        """``{"status", "message"}``; at the OAuth endpoint ``{"code", "message"}``."""
        return {"code": code, "message": message} if isinstance(code, int) else {"status": status, "message": message}

    def models(self) -> dict[str, Any]:
        """The list of models, which is one."""
        model = {"id": self.model, "object": "model", "owned_by": "salutedevices", "type": "chat"}
        return {"object": "list", "data": [model]}

    def _chunk(self, kind: Kind, answer: Answer, delta: Mapping[str, Any]) -> Piece:
        return Piece(kind, self.event(_body(answer, {"delta": delta, "index": 0})))


def _check_messages(messages: list[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages):
        if not isinstance(message.get("content"), str):
            raise Refusal(422, f"Invalid params: messages[{number}].content is not a string")
        if number and message.get("role") == "system":
            raise Refusal(422, "Invalid params: system message must be the first message")


def _body(answer: Answer, choice: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "choices": [choice], "created": epoch(), "model": f"{answer.model}:2.0.28.2", "object": "chat.completion",
    }


def _finish(answer: Answer) -> str:
    return _FINISH.get(answer.finish, answer.finish)


def _call(answer: Answer) -> dict[str, Any]:
    if answer.tool is None:
        return {}
    call = {"name": answer.tool.name, "arguments": answer.tool.value}
    return {"function_call": call, "functions_state_id": str(UUID(int=answer.number))}


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens, "precached_prompt_tokens": 0,
    }
