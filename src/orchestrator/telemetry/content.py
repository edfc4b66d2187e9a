"""Prompts and answers in the JSON of the GenAI conventions; used only when the user asked for content in spans."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.core.types import Completion, ImagePart, Message, Request, ToolCall
from orchestrator.telemetry.redact import redact

__all__ = ["input_messages", "output_messages"]


def input_messages(request: Request) -> str:
    """The value of ``gen_ai.input.messages``."""
    return _json([{"role": message.role, "parts": _parts(message)} for message in request.messages])


def output_messages(completion: Completion) -> str:
    """The value of ``gen_ai.output.messages``: one message, as only one answer is asked for."""
    parts = [{"type": "reasoning", "content": completion.reasoning}] if completion.reasoning else []
    parts += [_text(completion.text)] if completion.text else []
    parts += [_tool_call(call) for call in completion.tool_calls]
    reason = "tool_call" if completion.finish_reason == "tool_calls" else completion.finish_reason
    return _json([{"role": "assistant", "parts": parts, "finish_reason": reason}])


def _parts(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}]
    parts = [_text(message.text)] if message.text else []
    parts += [_image(image) for image in message.images]
    return parts + [_tool_call(call) for call in message.tool_calls]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _image(image: ImagePart) -> dict[str, Any]:
    if not image.url.startswith("data:"):
        return {"type": "uri", "modality": "image", "uri": image.url}
    # The bytes stay out: an image is larger than what most backends take as one attribute.
    mime_type = image.url[5:].partition(";")[0].partition(",")[0]
    return {"type": "blob", "modality": "image", "mime_type": mime_type, "content": ""}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _json(messages: list[dict[str, Any]]) -> str:
    return redact(json.dumps(messages, ensure_ascii=False))
