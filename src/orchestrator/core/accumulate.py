"""Pieces of a stream, put together into the whole answer; and the judgement whether an answer is one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from orchestrator.core.errors import ContentFilteredError, MalformedResponseError
from orchestrator.core.surrogates import Halves, whole
from orchestrator.core.types import (
    Completion,
    Finished,
    ReasoningDelta,
    Restarted,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

__all__ = ["MAX_ARGUMENTS", "MAX_CALLS", "MAX_EVENTS", "MAX_TEXT", "Accumulator", "check_completion"]


MAX_TEXT = 16 * 1024 * 1024
MAX_EVENTS = 1024 * 1024
MAX_CALLS = 10_000
MAX_ARGUMENTS = 16 * 1024 * 1024

_EVENT = MAX_TEXT // MAX_EVENTS
_fields_of = attrgetter(*Completion.__slots__)  # in the order of its arguments
_text_of = attrgetter("text")
_counts_of = attrgetter("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
_ONLY_TEXT = {TextDelta}
_MOST = 2**53  # no count of tokens and no cost is larger; what is, would make sums and averages nonsense


class Accumulator:
    """Collects the events of one stream, of whatever provider.

    Refused with :class:`MalformedResponseError` are more than ``MAX_TEXT`` characters of text and reasoning together
    (each event counts as 16 more: at most ``MAX_EVENTS``), ``MAX_CALLS`` tool calls, and ``MAX_ARGUMENTS`` characters
    of those. Half a surrogate pair
    at the end of a text piece is taken out of the piece and put before the next one; without a next one it is dropped.
    """

    __slots__ = ("_arguments", "_calls", "_end", "_halves", "_reasoning", "_room", "_text", "finished")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._end: Completion | None = None
        self.finished = False  # the stream has said that the answer is whole
        self._halves: Halves | None = None
        self._room = MAX_TEXT
        self._arguments = 0

    def add(self, event: StreamEvent) -> None:
        """Take the next event."""
        if isinstance(event, TextDelta) and isinstance(text := event.text, str):
            # What is printable holds no half either; most pieces are one or the other, and this is asked of each.
            if self._halves is not None or not (text.isascii() or text.isprintable()):
                event.text = text = self._joined(text)
            self._room = room = self._room - len(text) - _EVENT
            if room >= 0:  # else it is not handed out either
                self._text.append(text)
                return
        elif isinstance(event, ReasoningDelta) and isinstance(event.text, str):
            self._reasoning.append(event.text)
            self._room -= len(event.text) + _EVENT
        elif isinstance(event, ToolCallDelta) and isinstance(event.arguments, str) and isinstance(event.index, int):
            self._add_call(event)
            self._room -= _EVENT
        elif isinstance(event, Finished) and isinstance(event.completion, Completion):
            self._end = event.completion
            self.finished = True
        elif isinstance(event, Restarted):
            self._text, self._reasoning, self._calls, self._halves = [], [], {}, None
        else:
            raise MalformedResponseError(f"the stream yielded {_fault(event)}")
        if self._room < 0:
            raise MalformedResponseError(
                f"the stream is longer than {MAX_TEXT} characters, each event counted as {_EVENT} more"
            )

    def add_texts(self, batch: Sequence[StreamEvent]) -> bool:
        """Take a batch of usual pieces of text at once, in a fraction of the time; or none of it, and return False.

        False says nothing against the batch: it is for :meth:`add`, one event after the other, as it is too short to be
        worth it, or holds something that needs a look.
        """
        if len(batch) < 3 or self._halves is not None or not _ONLY_TEXT.issuperset(map(type, batch)):
            return False
        try:
            text = "".join(map(_text_of, batch))
            if not text.isascii():
                text.encode()
        except (TypeError, UnicodeEncodeError):  # no text at all, or halves of pairs
            return False
        room = self._room - len(text) - _EVENT * len(batch)
        if room < 0:
            return False
        self._room = room
        self._text.append(text)
        return True

    def _joined(self, text: str) -> str:
        halves = self._halves
        if halves is None:
            try:
                text.encode()
            except UnicodeEncodeError:
                halves = self._halves = Halves()
            else:
                return text
        return halves.join(text)

    def _add_call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                raise MalformedResponseError(f"the stream has more than {MAX_CALLS} tool calls")
            call = self._calls[delta.index] = _Call()
        call.id = delta.id or call.id
        call.name = delta.name or call.name
        call.arguments.append(delta.arguments)
        self._arguments += len(delta.arguments)
        if self._arguments > MAX_ARGUMENTS:
            raise MalformedResponseError(f"the tool calls of the stream are longer than {MAX_ARGUMENTS} characters")

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def completion(self, provider: str) -> Completion:
        """The whole answer; :class:`MalformedResponseError` when the stream never said that it is whole."""
        done = self._end
        if done is None:
            raise MalformedResponseError("the stream ended without an end marker", provider=provider)
        answer = Completion(*_fields_of(done))  # a provider may end every stream with the same object
        answer.text = done.text or self.text
        answer.reasoning = done.reasoning or "".join(self._reasoning)
        answer.tool_calls = done.tool_calls or tuple(self._calls[index].whole() for index in sorted(self._calls))
        return answer


class _Call:
    """A tool call whose arguments are still coming."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def whole(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self.arguments))


def check_completion(
    completion: object, provider: str, may_be_empty: bool = False,  # noqa: FBT001, FBT002  # keyword-only ones are slower
) -> Completion:
    """The completion itself if it is an answer; else the error it stands for.

    An empty text without a tool call is an answer only when the model ran into its token limit, or if it
    ``may_be_empty``: the end of an answer that was there before. What UTF-8 cannot carry
    is replaced in place.
    """
    if not isinstance(completion, Completion) or not isinstance(completion.text, str):
        raise MalformedResponseError(f"the provider returned {_kind(completion)}, not a text", provider=provider)
    if not completion.text.isascii() or completion.reasoning or completion.tool_calls:
        _make_encodable(completion)
    if completion.usage is not None and not _holds_counts(completion.usage):
        raise MalformedResponseError("the provider returned a usage that is no Usage of whole numbers",
                                     provider=provider, model=completion.model)
    cost = completion.cost
    if cost is not None and not (isinstance(cost, int | float) and 0 <= cost < _MOST):
        raise MalformedResponseError("the provider returned a cost that is no number from 0 on", provider=provider,
                                     model=completion.model)
    if completion.finish_reason == "content_filter":
        raise ContentFilteredError("the provider's content filter stopped the answer", provider=provider,
                                   model=completion.model)
    if not (completion.text or completion.tool_calls or completion.finish_reason == "length" or may_be_empty):
        raise MalformedResponseError("the provider returned an empty answer", provider=provider,
                                     model=completion.model)
    return completion


def _make_encodable(completion: Completion) -> None:
    completion.text = whole(completion.text)
    if isinstance(completion.reasoning, str):
        completion.reasoning = whole(completion.reasoning)
    if any(not (call.id + call.name + call.arguments).isascii() for call in completion.tool_calls):
        completion.tool_calls = tuple(
            ToolCall(whole(call.id), whole(call.name), whole(call.arguments)) for call in completion.tool_calls
        )


def _holds_counts(usage: object) -> bool:
    if not isinstance(usage, Usage):
        return False
    prompt, completion, cached, reasoning = _counts_of(usage)
    if not (isinstance(prompt, int) and isinstance(completion, int)
            and isinstance(cached, int) and isinstance(reasoning, int)):
        return False
    # All bits of all four: one number below 0 makes this negative, and one too large makes it too large.
    return 0 <= prompt | completion | cached | reasoning < _MOST


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
