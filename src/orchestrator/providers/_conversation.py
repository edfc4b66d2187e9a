"""What the dialects share whose tool calls carry no id: results name their tool, arguments are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator import core
from orchestrator.core.errors import InvalidRequestError, MalformedResponseError, ProviderError
from orchestrator.core.surrogates import whole
from orchestrator.core.types import Message, ResponseFormat, Tool, ToolCall
from orchestrator.providers._errors import error_from_payload
from orchestrator.providers._failure import clean
from orchestrator.providers._json import UnreadableError, read_json

if TYPE_CHECKING:
    from orchestrator.core.config import WireLimits

__all__ = [
    "Source", "arguments_object", "count", "described_schema", "function", "odd_arguments", "speaker_name", "tool_name",
]


_NO_PARAMETERS = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reply comes from: what every answer and every error of it carries."""

    provider: str
    model: str
    request_id: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    limits: WireLimits = field(default_factory=lambda: core.config.DEFAULT_WIRE_LIMITS)

    def malformed(self, message: str) -> MalformedResponseError:
        """The error for a reply that is none."""
        return MalformedResponseError(message, provider=self.provider, model=self.model, request_id=self.request_id)

    def quoted(self, value: object) -> str:
        """The beginning of what a provider sent where one of a few words was expected."""
        return repr(clean(str(value), self.secrets)[:64])

    def told_error(self, payload: object) -> ProviderError:
        """The error that stands in a reply with a success status."""
        error = error_from_payload(payload, provider=self.provider, model=self.model, secrets=self.secrets)
        error.request_id = error.request_id or self.request_id
        return error

    def text(self, holder: Mapping[str, Any], key: str) -> str:
        """The text ``key`` of a message, empty when it is absent or null."""
        value = holder.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.malformed(f"{key} is {type(value).__name__}, not a text")
        return value

    def call(self, call_id: str, function: object) -> ToolCall:
        """A call of a tool from ``{"name": …, "arguments": {…}}``."""
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise self.malformed("a tool call names no tool")
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)  # not too deep, as `parse` looked at it
        if len(arguments) > self.limits.arguments:
            raise self.malformed(f"the arguments of a tool call are longer than {self.limits.arguments} characters")
        return ToolCall(call_id, whole(name), whole(arguments))

    def parse(self, text: str) -> dict[str, Any]:
        """The JSON object that one event of a stream is."""
        try:
            payload = read_json(text, self.limits)
        except UnreadableError as error:
            text = ""
            raise self.malformed(f"an event of the stream {error}") from None
        if not isinstance(payload, dict):
            raise self.malformed("an event of the stream is no JSON object")
        return payload


def arguments_object(call: ToolCall, where: str) -> dict[str, Any]:
    """The arguments as an object, which is what these dialects carry; ``where`` names the message for the error."""
    try:
        arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where}: the arguments of the call of {call.name!r} are no JSON object")
    return arguments


def odd_arguments(messages: Sequence[Message]) -> str | None:
    """The call whose arguments these dialects cannot carry, as they are no JSON object, or None.

    Models do write such calls, and other providers carry any text.
    """
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls):
            where = f"messages[{index}].tool_calls[{number}]"
            try:
                arguments_object(call, where)
            except InvalidRequestError:
                return f"{where}.function.arguments"
    return None


def tool_name(message: Message, where: str, names: Mapping[str, str]) -> str:
    """The tool whose result ``message`` is; ``names`` maps the ids of the calls so far to the names of their tools."""
    name = (names.get(message.tool_call_id) if message.tool_call_id else None) or message.name
    if not name:
        raise InvalidRequestError(f"{where}.tool_call_id answers no call before it, and name is not set")
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


def function(tool: Tool) -> dict[str, Any]:
    """The declaration of a tool; one without parameters takes an empty object."""
    declared: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or _NO_PARAMETERS}
    if tool.description is not None:
        declared["description"] = tool.description
    return declared


def count(value: object) -> int:
    """A number of tokens, sent as a number or as text; 0 for anything else."""
    if isinstance(value, str) and len(value) < 20 and value.isdecimal():
        return int(value)
    # No count of tokens is larger; what is, is nonsense, and could not even be added to a number with a fraction.
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
