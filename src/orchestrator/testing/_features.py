"""A request for each feature a provider may support, and how to recognise that feature in what was sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from orchestrator.core.config import GenerationParams
from orchestrator.core.types import ImagePart, Message, Request, ResponseFormat, TextPart, Tool, ToolChoice
from orchestrator.providers.base import BaseProvider

__all__ = ["MARKERS", "request_for"]

_PROMPT = "Say hello"
_IMAGE = "data:image/png;base64,TUFSS0VS"
_SCHEMA = {"type": "object", "properties": {"marked": {"type": "string"}}, "required": ["marked"],
           "additionalProperties": False}
_TOOLS = (Tool("marked_tool", "A tool", _SCHEMA), Tool("other_tool", "Another", _SCHEMA))

_REQUESTS: Mapping[str, Callable[[], Request]] = {
    "temperature": lambda: Request(_PROMPT, GenerationParams(temperature=0.375)),
    "max_tokens": lambda: Request(_PROMPT, GenerationParams(max_tokens=777)),
    "top_p": lambda: Request(_PROMPT, GenerationParams(top_p=0.875)),
    "stop": lambda: Request(_PROMPT, GenerationParams(stop=("MARKED",))),
    "seed": lambda: Request(_PROMPT, GenerationParams(seed=4242)),
    "messages": lambda: Request(messages=(
        Message("system", "Be brief"), Message("user", "MARKED"),
        Message("assistant", "Yes?"), Message("user", _PROMPT),
    )),
    "prefill": lambda: Request(messages=(Message("user", _PROMPT), Message("assistant", "MARKED")), prefill=True),
    "images": lambda: Request(messages=(Message("user", (TextPart(_PROMPT), ImagePart(_IMAGE))),)),
    "tools": lambda: Request(_PROMPT, tools=_TOOLS),
    "json_object": lambda: Request(f"{_PROMPT} in JSON", response_format=ResponseFormat()),
    "json_schema": lambda: Request(_PROMPT, response_format=ResponseFormat(_SCHEMA, name="marked")),
}

# A choice is made by name or, where that cannot be, by "required".
MARKERS: Mapping[str, re.Pattern[str]] = {
    "temperature": re.compile(r"0\.375\b"),
    "max_tokens": re.compile(r"\b777\b"),
    "top_p": re.compile(r"0\.875\b"),
    "stop": re.compile("MARKED"),
    "seed": re.compile(r"\b4242\b"),
    "messages": re.compile("MARKED.*Yes"),
    "prefill": re.compile("MARKED"),
    "images": re.compile("TUFSS0VS"),
    "tools": re.compile("marked_tool.*other_tool"),
    "tool_choice": re.compile("other_tool.*other_tool|required", re.IGNORECASE),
    "json_object": re.compile("json_?object", re.IGNORECASE),
    "json_schema": re.compile("json_?schema.*marked|marked.*json_?schema", re.IGNORECASE),
}


def request_for(feature: str, provider: BaseProvider) -> Request:
    """A request that needs this feature, and others only where it cannot be without them."""
    if feature != "tool_choice":
        return _REQUESTS[feature]()
    named = Request(_PROMPT, tools=_TOOLS, tool_choice=ToolChoice("named", "other_tool"))
    if provider.unsupported(named) == "tool_choice" and "tool_choice" in provider.supports:
        return Request(_PROMPT, tools=_TOOLS, tool_choice=ToolChoice("required"))
    return named
