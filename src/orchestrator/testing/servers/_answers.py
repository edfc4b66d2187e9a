"""What a simulated model reads and says: the prompt, and a text, a tool call or JSON that fits the schema given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.clock import now
from orchestrator.testing._exchange import Answer, Asked, Refusal, Tool, tokens

__all__ = ["AnswerText", "answer", "canned", "epoch", "pick_tool", "read_prompt"]

AnswerText = str | Callable[[str], str]


def canned(name: str) -> Callable[[str], str]:
    """The default answer: says who speaks, and repeats the prompt."""
    return lambda prompt: f"This is {name}, a simulated provider. You asked: {prompt}"


def answer(asked: Asked, text: AnswerText, *, number: int, rate: float | None) -> Answer:
    """The answer to a request, cut at its token limit."""
    words = text if isinstance(text, str) else text(asked.prompt)
    if asked.tool is not None:
        call = Tool(asked.tool.name, _example(asked.tool.value, words))
        return Answer(number, asked.model, "", asked.prompt_tokens, rate, "tool_calls", call, asked.include_usage)
    if asked.schema is not None:
        words = json.dumps(_example(asked.schema, words), ensure_ascii=False)
    kept = words if asked.max_tokens is None else "".join(tokens(words)[:asked.max_tokens])
    return Answer(
        number, asked.model, kept, asked.prompt_tokens, rate, "stop" if kept == words else "length",
        usage=asked.include_usage,
    )


def read_prompt(messages: Sequence[Mapping[str, Any]], field: str) -> tuple[str, int]:
    """The last text a user said, and the number of tokens of the whole conversation."""
    texts = [(message.get("role"), _text(message.get(field))) for message in messages]
    said = [text for role, text in texts if role == "user"]
    return said[-1] if said else "", sum(len(tokens(text)) for _, text in texts)


def pick_tool(options: Iterable[Tool], name: str | None, *, required: bool) -> Tool | None:
    """The tool to call: the named one, the first of all when one is required, else none."""
    for option in options:
        if option.name == name or (name is None and required):
            return option
    if name is not None or required:
        raise Refusal(400, f"there is no tool {name!r} in 'tools'" if name else "a tool is required, but none is given")
    return None


def epoch() -> int:
    """A Unix time for ``created`` fields, the same in every run on a virtual clock."""
    return 1_790_000_000 + int(now())


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts)


def _example(schema: Mapping[str, Any], text: str) -> Any:  # noqa: ANN401  # JSON
    """A value that fits a plain JSON schema: every property once, ``text`` for a string."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _example(inner, text) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema["items"], text)] if "items" in schema else []
    return {"string": text, "integer": 1, "number": 1.5, "boolean": True}.get(kind)
