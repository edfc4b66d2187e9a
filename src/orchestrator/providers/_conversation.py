"""What the dialects whose tool calls carry no id share: results name their tool, arguments are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.types import Message, ResponseFormat, ToolCall

__all__ = ["arguments_object", "described_schema", "speaker_name", "tool_name"]


def arguments_object(call: ToolCall, where: str) -> dict[str, Any]:
    """The arguments as an object, which is what these dialects carry; ``where`` names the message for the error."""
    try:
        arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where}: the arguments of the call of {call.name!r} are no JSON object")
    return arguments


def tool_name(message: Message, where: str, names: Mapping[str, str]) -> str:
    """The tool whose result ``message`` is; ``names`` maps the ids of the calls so far to the names of their tools."""
    name = names.get(message.tool_call_id or "") or message.name
    if not name:
        raise InvalidRequestError(f"{where}.tool_call_id answers no call of the messages before it, and name is not set")
    return name


def speaker_name(messages: Sequence[Message]) -> str | None:
    """The field that names the speaker of a message, which these dialects cannot carry, or None."""
    for index, message in enumerate(messages):
        if message.name and message.role != "tool":
            return f"messages[{index}].name"
    return None


def described_schema(wanted: ResponseFormat) -> dict[str, Any]:
    """The schema; the description of the format, for which there is no field, goes into it."""
    schema = wanted.schema or {}
    if wanted.description and "description" not in schema:
        return {**schema, "description": wanted.description}
    return schema
