"""Chat Completions without I/O: a request becomes a body, a body or the events of a stream become an answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]  # typeshed
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.types import ImagePart, Message, Part, Request, ResponseFormat, Tool, ToolCall, ToolChoice
from orchestrator.providers._secret import SecretBytes
from orchestrator.providers.catalog import Vendor

if TYPE_CHECKING:
    from orchestrator.core.config import GenerationParams

__all__ = ["encode_body", "encode_request"]

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
# What _JSON.encode comes down to, without the encoder it makes each time. Circles end at the limit of recursion.
_encode = c_make_encoder and c_make_encoder(None, _JSON.default, encode_basestring, None, ":", ",", False, False, False)
_NO_PARAMETERS = {"type": "object", "properties": {}}


def encode_request(request: Request, vendor: Vendor, base: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The body as JSON values; ``base`` holds what the configuration says, and the request overrides it."""
    body = {**base, "messages": [_message(message, vendor) for message in request.messages], "stream": stream}
    if request.needs:
        _add_needs(body, request, vendor)
    if stream and vendor.stream_options:
        body.setdefault("stream_options", {"include_usage": True})
    return body


def _add_needs(body: dict[str, Any], request: Request, vendor: Vendor) -> None:
    """What there is besides the conversation: without needs, nothing."""
    if request.prefill:
        _mark_prefill(body, vendor)
    if request.params is not None:
        body.update(_params(request.params, vendor))
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)


def _mark_prefill(body: dict[str, Any], vendor: Vendor) -> None:
    if vendor.prefill == "prefix":
        body["messages"][-1]["prefix"] = True
    elif vendor.prefill == "continue_final_message":
        body.update(continue_final_message=True, add_generation_prompt=False)


def encode_body(body: Mapping[str, Any]) -> bytes:
    """``body`` as JSON; :class:`InvalidRequestError` when it holds what JSON, or UTF-8, cannot."""
    try:
        return SecretBytes(("".join(_encode(body, 0)) if _encode else _JSON.encode(body)).encode())
    except UnicodeEncodeError:
        problem = "messages hold half of a surrogate pair, which UTF-8 cannot carry"
    except (TypeError, ValueError, RecursionError) as exc:
        problem = f"tools, response_format or extra_body hold what JSON cannot: {exc}"
    # Not in an except clause: the errors above, and the frames they came through, hold the prompt.
    raise InvalidRequestError(problem)


def _params(params: GenerationParams, vendor: Vendor) -> dict[str, Any]:
    given = params.given()
    if "max_tokens" in given:
        given[vendor.max_tokens] = given.pop("max_tokens")
    if "seed" in given:
        given[vendor.seed] = given.pop("seed")
    return given


def _message(message: Message, vendor: Vendor) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.role == "tool":
        wire["tool_call_id"] = _call_id(message.tool_call_id or "", vendor)
    elif message.name:
        wire["name"] = message.name
    if message.tool_calls:
        wire["content"] = wire["content"] or None
        wire["tool_calls"] = [_tool_call(call, vendor) for call in message.tool_calls]
    return wire


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    # A list is taken by fewer servers than a text.
    return [_part(part) for part in message.content] if message.images else message.text


def _part(part: Part) -> dict[str, Any]:
    if not isinstance(part, ImagePart):
        return {"type": "text", "text": part.text}
    image = {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}
    return {"type": "image_url", "image_url": image}


def _tool_call(call: ToolCall, vendor: Vendor) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": _call_id(call.id, vendor), "type": "function", "function": function}


def _call_id(call_id: str, vendor: Vendor) -> str:
    # A conversation may have begun with another provider, whose ids Mistral would refuse.
    if not vendor.nine_character_ids or re.fullmatch(r"[a-zA-Z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:9]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or _NO_PARAMETERS}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    if wanted.description is not None:
        schema["description"] = wanted.description
    return {"type": "json_schema", "json_schema": schema}
