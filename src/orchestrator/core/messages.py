"""From what a user writes (a prompt, OpenAI-style dicts, our own types) to typed messages; errors name the place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.types import ImagePart, Message, Part, ResponseFormat, Role, TextPart, Tool, ToolCall, ToolChoice

__all__ = ["parse_messages", "parse_response_format", "parse_tool_choice", "parse_tools"]

_ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
_TOOL_KEYS = ("name", "description", "parameters", "strict")
T = TypeVar("T")


def parse_messages(value: object) -> tuple[Message, ...]:
    """A conversation from a list of dicts (OpenAI's shape) or :class:`Message` objects."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong("prompt", value, "a text or a list of messages")
    return _each("messages", value, _message, Message, empty="messages is empty")


def parse_tools(value: object) -> tuple[Tool, ...]:
    """Tools from a list of dicts (``{"type": "function", "function": {...}}`` or the inner dict) or :class:`Tool`."""
    return () if value is None else _each("tools", value, _tool, Tool, empty=None)


def parse_tool_choice(value: object) -> ToolChoice | None:
    """``"auto"``, ``"none"``, ``"required"``, a tool's name as ``{"type": "function", "function": {"name": …}}``."""
    if value is None or isinstance(value, ToolChoice):
        return value
    if value in ("auto", "none", "required"):
        return ToolChoice(value)
    if isinstance(value, Mapping):
        function = value.get("function", value)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name:
            return ToolChoice("named", name)
    raise _wrong("tool_choice", value, "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': …}}")


def parse_response_format(value: object) -> ResponseFormat | None:
    """``{"type": "json_object"}``, ``{"type": "json_schema", "json_schema": {"name", "schema", …}}``, or ours."""
    if value is None or isinstance(value, ResponseFormat):
        return value
    if isinstance(value, Mapping):
        kind, inner = value.get("type"), value.get("json_schema")
        if kind == "text":
            return None
        if kind == "json_object":
            return ResponseFormat()
        if kind == "json_schema" and isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
            return ResponseFormat(
                dict(inner["schema"]), str(inner.get("name") or "answer"), inner.get("strict"), inner.get("description")
            )
    raise _wrong(
        "response_format", value,
        "{'type': 'json_object'} or {'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}",
    )


def _each(
    field: str, value: object, parse: Callable[[str, Mapping[str, Any]], T], ready: type[T], *, empty: str | None
) -> tuple[T, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(field, value, "a list")
    if not value and empty:
        raise InvalidRequestError(empty)
    items: list[T] = []
    for number, item in enumerate(value):
        where = f"{field}[{number}]"
        if isinstance(item, ready):
            items.append(item)
        elif isinstance(item, Mapping):
            items.append(parse(where, item))
        else:
            raise _wrong(where, item, f"a dict or a {ready.__name__}")
    return tuple(items)


def _message(where: str, item: Mapping[str, Any]) -> Message:
    _known(where, item, _MESSAGE_KEYS)
    role = "system" if item.get("role") == "developer" else item.get("role")
    if role not in _ROLES:
        raise _wrong(f"{where}.role", role, f"one of {', '.join(_ROLES)}")
    calls = _tool_calls(f"{where}.tool_calls", item.get("tool_calls"))
    content = _content(f"{where}.content", item.get("content"), optional=bool(calls))
    call_id = item.get("tool_call_id")
    if role == "tool" and not isinstance(call_id, str):
        raise _wrong(f"{where}.tool_call_id", call_id, "the id of the call this answers")
    name = item.get("name")
    if name is not None and not isinstance(name, str):
        raise _wrong(f"{where}.name", name, "a text")
    return Message(cast("Role", role), content, calls, call_id, name)


def _content(where: str, value: object, *, optional: bool) -> str | tuple[Part, ...]:
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise _wrong(where, value, "a text or a list of parts")
    return tuple(_part(f"{where}[{number}]", part) for number, part in enumerate(value))


def _part(where: str, part: object) -> Part:
    if isinstance(part, TextPart | ImagePart):
        return part
    if isinstance(part, Mapping):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            _known(where, part, ("type", "text"))
            return TextPart(part["text"])
        image = part.get("image_url")
        if part.get("type") == "image_url":
            _known(where, part, ("type", "image_url"))
            if isinstance(image, str):
                return ImagePart(image)
            if isinstance(image, Mapping) and isinstance(image.get("url"), str):
                _known(f"{where}.image_url", image, ("url", "detail"))
                return ImagePart(image["url"], image.get("detail"))
    raise _wrong(where, part, "{'type': 'text', 'text': …} or {'type': 'image_url', 'image_url': {'url': …}}")


def _tool_calls(where: str, value: object) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong(where, value, "a list")
    return tuple(_tool_call(f"{where}[{number}]", call) for number, call in enumerate(value))


def _tool_call(where: str, call: object) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function") if isinstance(call, Mapping) else None
    if isinstance(call, Mapping) and isinstance(function, Mapping) and isinstance(function.get("name"), str):
        arguments = function.get("arguments", "")
        try:
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        except (TypeError, ValueError):
            raise _wrong(f"{where}.function.arguments", arguments, "JSON, as a text or as plain values") from None
        return ToolCall(str(call.get("id") or ""), function["name"], text)
    raise _wrong(where, call, "{'id': …, 'type': 'function', 'function': {'name': …, 'arguments': …}}")


def _tool(where: str, item: Mapping[str, Any]) -> Tool:
    function = item.get("function", item)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(where, item, "{'type': 'function', 'function': {'name': …, 'parameters': {…}}}")
    _known(where, item, ("type", "function") if "function" in item else ("type", *_TOOL_KEYS))
    _known(where, function, ("type", *_TOOL_KEYS))
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _wrong(f"{where}.parameters", parameters, "a JSON schema, as a dict")
    return Tool(function["name"], function.get("description"), dict(parameters or {}), function.get("strict"))


def _known(where: str, item: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse what would be dropped: nothing the user wrote is lost silently."""
    for key in item:
        if key not in keys:
            raise InvalidRequestError(f"{where} has an unknown key {key!r}; known: {', '.join(keys)}")


def _wrong(where: str, value: object, allowed: str) -> InvalidRequestError:
    # The value itself may be the user's text: only its kind, or a short plain word, is shown.
    shown = repr(value) if isinstance(value, str) and len(value) <= 32 else type(value).__name__
    if value is None:
        shown = "missing"
    return InvalidRequestError(f"{where} is {shown}; expected {allowed}")
