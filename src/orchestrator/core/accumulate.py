"""Pieces of a stream, put together into the whole answer; and the judgement whether an answer is one."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.errors import ContentFilteredError, MalformedResponseError
from orchestrator.core.types import (
    Completion,
    Finished,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

__all__ = ["Accumulator", "check_completion"]


class Accumulator:
    """Collects the events of one stream."""

    __slots__ = ("_calls", "_finished", "_reasoning", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, ToolCall] = {}
        self._finished: Completion | None = None

    def add(self, event: StreamEvent) -> None:
        """Take the next event."""
        if isinstance(event, TextDelta) and isinstance(event.text, str):
            self._text.append(event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(event.text, str):
            self._reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(event.arguments, str) and isinstance(event.index, int):
            self._add_call(event)
        elif isinstance(event, Finished) and isinstance(event.completion, Completion):
            self._finished = event.completion
        else:
            raise MalformedResponseError(f"the stream yielded {_fault(event)}")

    def _add_call(self, delta: ToolCallDelta) -> None:
        known = self._calls.get(delta.index)
        if known is None:
            self._calls[delta.index] = ToolCall(delta.id or "", delta.name or "", delta.arguments)
        else:
            self._calls[delta.index] = replace(
                known, id=delta.id or known.id, name=delta.name or known.name,
                arguments=known.arguments + delta.arguments,
            )

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def finished(self) -> bool:
        """Whether the stream said that the answer is whole."""
        return self._finished is not None

    def completion(self, provider: str) -> Completion:
        """The whole answer; :class:`MalformedResponseError` when the stream never said that it is whole."""
        done = self._finished
        if done is None:
            raise MalformedResponseError("the stream ended without an end marker", provider=provider)
        # A copy: a provider may end every stream with the same object.
        return replace(
            done, text=done.text or self.text, reasoning=done.reasoning or "".join(self._reasoning),
            tool_calls=done.tool_calls or tuple(self._calls[index] for index in sorted(self._calls)),
        )


def check_completion(completion: object, provider: str) -> Completion:
    """The completion itself if it is an answer; else the error it stands for.

    An empty text without a tool call is an answer only when the model ran into its token limit.
    """
    if not isinstance(completion, Completion) or not isinstance(completion.text, str):
        raise MalformedResponseError(f"the provider returned {_kind(completion)}, not a text", provider=provider)
    if completion.usage is not None or completion.cost is not None:
        _check_numbers(completion, provider)
    if completion.finish_reason == "content_filter":
        raise ContentFilteredError("the provider's content filter stopped the answer", provider=provider,
                                   model=completion.model)
    if not completion.text and not completion.tool_calls and completion.finish_reason != "length":
        raise MalformedResponseError("the provider returned an empty answer", provider=provider,
                                     model=completion.model)
    return completion


def _check_numbers(completion: Completion, provider: str) -> None:
    usage, cost = completion.usage, completion.cost
    counts: tuple[object, ...] = (None,)  # of what is no Usage
    if isinstance(usage, Usage):
        counts = usage.prompt_tokens, usage.completion_tokens
    if usage is not None and not all(isinstance(count, int) for count in counts):
        raise MalformedResponseError("the provider returned a usage that is no Usage of whole numbers",
                                     provider=provider, model=completion.model)
    if not isinstance(cost, int | float | None):
        raise MalformedResponseError("the provider returned a cost that is no number", provider=provider,
                                     model=completion.model)


def _fault(event: object) -> str:
    kind = type(event).__name__
    if not isinstance(event, StreamEvent):
        return f"{kind}, which is no stream event"
    values = {name: getattr(event, name) for name in _FIELDS if hasattr(event, name)}
    name = next(name for name, value in values.items() if not isinstance(value, _FIELDS[name]))
    return f"{kind} whose {name} is {_kind(values[name])}"


_FIELDS: dict[str, type] = {"text": str, "arguments": str, "index": int, "completion": Completion}


def _kind(value: object) -> str:
    inner = value.text if isinstance(value, Completion) else value
    return type(inner).__name__
