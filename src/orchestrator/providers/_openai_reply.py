"""Decodes one reply of a Chat Completions server, plain or streamed, in every vendor's variant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from orchestrator import core
from orchestrator.core.accumulate import Accumulator
from orchestrator.core.errors import (
    ContentFilteredError,
    MalformedResponseError,
    OverloadedError,
    ProviderError,
    ServerError,
)
from orchestrator.core.surrogates import Halves, whole
from orchestrator.core.types import (
    Completion,
    Finished,
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from orchestrator.providers._batches import MOST, Batch
from orchestrator.providers._errors import error_from_payload
from orchestrator.providers._failure import clean
from orchestrator.providers._json import UnreadableError, read_json
from orchestrator.providers._sse import SSEDecoder

if TYPE_CHECKING:
    from orchestrator.core.config import WireLimits
    from orchestrator.providers._pieces import Piece
try:
    from orchestrator.providers._pieces import usual_piece
except ModuleNotFoundError:  # msgspec, of the extra `fast`
    def usual_piece(data: str) -> Piece | None:  # noqa: ARG001
        """None is usual without it."""
        return None

__all__ = ["Reply"]

_REASONS: dict[str, FinishReason] = {
    "length": "length", "model_length": "length", "max_tokens": "length",
    "tool_calls": "tool_calls", "function_call": "tool_calls", "content_filter": "content_filter",
}  # any other word: stop (also eos, end_turn …)
_FAILURES: dict[str, type[ProviderError]] = {
    "error": ServerError, "abort": ServerError,
    "aborted": OverloadedError, "insufficient_system_resource": OverloadedError,
}
_LONG = 2**20  # characters; what is longer is counted
_MOST = 2**53  # no count of tokens and no cost is larger; what is, is nonsense


class Reply:
    """One reply: feed it the events of a stream and ask for the end, or give it a whole body."""

    done = False  # the answer's text is whole
    complete = False  # and nothing more is to come, or needed
    usage: Usage | None = None  # the tokens told so far

    # Most replies need few of these.
    _calls: _Calls | None = None
    _cost: float | None = None
    _halves: Halves | None = None
    _has_choice = False
    _reason: FinishReason = "stop"
    _refusal = ""
    _takes_usual = True  # usual pieces are taken as they are
    _thoughts: Halves | None = None

    def __init__(
        self, *, provider: str, model: str | None, request_id: str | None = None, secrets: Iterable[str | None] = (),
        limits: WireLimits | None = None,
    ) -> None:
        self._provider = provider
        self._model = model
        self._request_id = request_id
        self._secrets = secrets
        self._limits = core.config.DEFAULT_WIRE_LIMITS if limits is None else limits

    def feed(self, told: Sequence[str]) -> Iterator[StreamEvent]:
        """What the next events of the stream carry, of which ``told`` is the data."""
        return chain.from_iterable(self.batches(told))

    def batches(self, told: Sequence[str]) -> Iterator[Batch]:
        """The same in batches; what is wrong with an event comes after all that was there before it."""
        batch: Batch = []
        try:
            for data in told:
                if len(batch) >= MOST:
                    yield batch
                    batch = []
                piece = usual_piece(data) if self._takes_usual else None
                if piece is None:
                    batch += self._other(data)
                    continue
                self._has_choice = True
                if piece.model:
                    self._model = piece.model
                batch.append(TextDelta(piece.choices[0].delta.content))
        except ProviderError:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def _other(self, data: str) -> list[StreamEvent]:
        if not data or self.complete:
            return []
        if data.startswith("[DONE]"):
            self.done = self.complete = True
            self._takes_usual = False
            return self._rest()
        try:
            payload = read_json(data, self._limits)
        except UnreadableError as exc:
            data = ""
            raise self._malformed(f"an event of the stream {exc}") from None
        events = self._take(payload, "delta")
        self._takes_usual = not self.done and (self._halves is None or not self._halves.held)
        return events

    def finish(self) -> Finished:
        """The end of the reply; raises when it was cut or is none."""
        return Finished(self._ended())

    def _ended(self) -> Completion:
        if not self._has_choice:
            raise self._malformed("the reply has no choices")
        if not self.done:
            raise self._malformed("the stream was cut: no finish reason and no [DONE]")
        if self._refusal:
            raise self._filtered(f"the model refused: {clean(self._refusal)}")
        reason = self._reason
        if reason == "stop" and self._calls is not None:
            reason = "tool_calls"
        return Completion(
            "", model=self._model, provider=self._provider, finish_reason=reason, usage=self.usage, cost=self._cost,
            request_id=self._request_id,
        )

    def events(self, payload: object) -> list[StreamEvent]:
        """The whole reply as the events of a stream, ``Finished`` last."""
        return [*self._take(payload, "message"), self.finish()]

    def completion(self, payload: object) -> Completion:
        """The whole reply."""
        events = self._take(payload, "message")
        completion = self._ended()
        if len(events) == 1 and isinstance(event := events[0], TextDelta) and len(event.text) < _LONG:
            completion.text = event.text  # what gathering comes to
        else:
            completion = self._gathered([*events, Finished(completion)])
        completion.raw = payload
        return completion

    def streamed(self, body: bytes) -> Completion:
        """The whole reply, where the body is the events of a stream."""
        frames = SSEDecoder(self._limits.line, self._limits.events)
        events = list(self.feed(frames.feed(body + b"\n\n")))
        return self._gathered([*events, self.finish()])

    def _gathered(self, events: Iterable[StreamEvent]) -> Completion:
        answer = Accumulator()
        for event in events:
            answer.add(event)
        return answer.completion(self._provider)

    def _take(self, payload: object, key: str) -> list[StreamEvent]:
        if not isinstance(payload, dict):
            raise self._malformed(f"the reply is {_kind(payload)}, not an object")
        if payload.get("error") or payload.get("object") == "error":
            raise self._told(payload)
        usage, groq = payload.get("usage"), payload.get("x_groq")
        if groq:
            usage = self._told_by_groq(groq, usage)
        model = payload.get("model")
        if model and isinstance(model, str):
            self._model = model if model.isascii() else whole(model)
        events: list[StreamEvent] = []
        choices = payload.get("choices")
        if choices:
            if not isinstance(choices, list):
                raise self._malformed(f"choices is {_kind(choices)}, not a list")
            for choice in choices:
                self._take_choice(choice, key, events)
        if usage and isinstance(usage, dict):
            self._take_usage(usage)
        self.done = self.done or key == "message"  # which is whole, whether it says so or not
        if self.done and self._halves is not None:
            events += self._rest()
        return events

    def _rest(self) -> list[StreamEvent]:
        rest = "" if self._halves is None else self._halves.rest()
        return [TextDelta(rest)] if rest else []

    def _told_by_groq(self, groq: object, usage: object) -> object:
        """The usage, which it may hold instead; an error in it is raised."""
        if not isinstance(groq, dict):
            return usage
        if groq.get("error"):
            raise self._told(groq)
        return usage or groq.get("usage")

    def _told(self, payload: dict[str, Any]) -> ProviderError:
        return error_from_payload(payload, provider=self._provider, model=self._model, secrets=self._secrets)

    def _take_choice(self, choice: object, key: str, events: list[StreamEvent]) -> None:
        if not isinstance(choice, dict):
            raise self._malformed(f"a choice is {_kind(choice)}, not an object")
        if choice.get("index"):
            return  # a further answer, asked for by `n`
        if choice.get("error"):
            raise self._told(choice)
        self._has_choice = True
        reason = choice.get("finish_reason")
        if reason == "stop":
            self._reason, self.done = "stop", True
        elif reason and reason != "null":  # servers that cannot leave it out say "" or "null" in all but the last piece
            # First: what comes with content_filter is no continuation of the answer (Yandex sends a replacement).
            self._end(reason)
        message = choice[key] if key in choice else choice.get("message")
        if message is None:
            return
        if not isinstance(message, dict):
            raise self._malformed(f"{key} is {_kind(message)}, not an object")
        self._take_message(message, events, whole=key == "message")

    def _end(self, reason: object) -> None:
        word = str(reason).lower()[:64]
        if word in _FAILURES:
            raise _FAILURES[word](
                f"the provider ended the answer with finish_reason {word!r}", provider=self._provider,
                model=self._model, code=word, request_id=self._request_id,
            )
        if word == "content_filter":
            raise self._filtered("the provider's content filter stopped the answer")
        self._reason = _REASONS.get(word, "stop")
        self.done = True

    def _take_message(self, message: dict[str, Any], events: list[StreamEvent], *, whole: bool) -> None:
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            events += self._thought(reasoning)
        content = message.get("content")
        if content:
            if not isinstance(content, str):
                events += self._parts(content)
            elif self._halves is None and content.isascii():
                events.append(TextDelta(content))
            else:
                events += self._piece(content)
        refusal = message.get("refusal")
        if refusal and isinstance(refusal, str):
            self._refusal = (self._refusal + refusal)[:2000]
        calls = message.get("tool_calls")
        if calls:
            if not isinstance(calls, list):
                raise self._malformed(f"tool_calls is {_kind(calls)}, not a list")
            for position, call in enumerate(calls):
                events += self._call(call, position if whole else None)

    def _piece(self, text: str) -> list[StreamEvent]:
        if self._halves is None:
            self._halves = Halves()
        text = self._halves.join(text)
        return [TextDelta(text)] if text else []

    def _thought(self, text: str) -> list[StreamEvent]:
        if self._thoughts is None:
            self._thoughts = Halves()
        text = self._thoughts.join(text)
        return [ReasoningDelta(text)] if text else []

    def _parts(self, parts: object) -> list[StreamEvent]:
        """Content as a list of parts (Mistral); parts that are neither text nor thinking are in ``raw``."""
        if not isinstance(parts, list):
            raise self._malformed(f"content is {_kind(parts)}, not a text")
        events: list[StreamEvent] = []
        for part in parts:
            text = _text(part)
            if text:
                events += self._piece(text)
            elif isinstance(part, dict):
                thought = part.get("thinking")
                events += self._thought("".join(map(_text, thought)) if isinstance(thought, list) else _text(thought))
        return events

    def _call(self, call: object, position: int | None) -> list[StreamEvent]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise self._malformed("a tool call is no object with a function")
        call_id, name, arguments = call.get("id") or "", function.get("name") or "", function.get("arguments")
        if not isinstance(call_id, str) or not isinstance(name, str):
            raise self._malformed("the id or the name of a tool call is not a text")
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else self._as_json(arguments)
        if self._calls is None:
            self._calls = _Calls()
        number, news = self._calls.place(call.get("index") if position is None else position, call_id, name)
        self._check_calls(self._calls, arguments)
        return [ToolCallDelta(number, news, name or None, arguments)]

    def _check_calls(self, calls: _Calls, arguments: str) -> None:
        limits = self._limits
        calls.size += len(arguments)
        if calls.count > limits.tool_calls:
            raise self._malformed(f"the reply has more than {limits.tool_calls} tool calls")
        if calls.size > limits.arguments:
            raise self._malformed(f"the arguments of the tool calls are longer than {limits.arguments} characters")

    def _as_json(self, arguments: object) -> str:
        try:
            return json.dumps(arguments, ensure_ascii=False)
        except RecursionError as exc:
            raise self._malformed("the arguments of a tool call are nested too deeply") from exc

    def _take_usage(self, told: dict[str, Any]) -> None:
        # The last one counts, wherever it stands; they are never added up.
        self.usage = usage = Usage(_count(told.get("prompt_tokens")), _count(told.get("completion_tokens")))
        cached = told.get("cached_tokens") or told.get("prompt_cache_hit_tokens")
        details = told.get("prompt_tokens_details")
        if details and isinstance(details, dict):
            cached = details.get("cached_tokens") or cached
        if cached:
            usage.cached_tokens = _count(cached)
        details = told.get("completion_tokens_details")
        if details and isinstance(details, dict):
            usage.reasoning_tokens = _count(details.get("reasoning_tokens"))
        cost = told.get("cost")
        if cost is not None and isinstance(cost, int | float) and 0 <= cost < _MOST:
            self._cost = float(cost)
        self.complete = self.done

    def _filtered(self, message: str) -> ContentFilteredError:
        return ContentFilteredError(
            message, provider=self._provider, model=self._model, request_id=self._request_id
        )

    def _malformed(self, message: str) -> MalformedResponseError:
        return MalformedResponseError(
            message, provider=self._provider, model=self._model, request_id=self._request_id
        )


class _Calls:
    """Numbers the tool calls of a reply, whatever the server calls them.

    Most servers number the fragments; some leave the number out, and some give each of several calls the number 0.
    """

    __slots__ = ("_ids", "_numbers", "size")

    def __init__(self) -> None:
        self.size = 0  # characters of all arguments
        self._numbers: dict[int | None, int] = {}
        self._ids: list[str] = []

    @property
    def count(self) -> int:
        return len(self._ids)

    def place(self, told: object, call_id: str, name: str) -> tuple[int, str | None]:
        """The number of the call that a fragment belongs to, and the call's id where that is news."""
        key = told if isinstance(told, int) else None
        number = self._numbers.get(key)
        if number is None or (name and (call_id != self._ids[number] if call_id else key is None)):
            number = self._numbers[key] = len(self._ids)
            self._ids.append("")
        if self._ids[number]:
            return number, None
        self._ids[number] = call_id
        return number, call_id or None


def _text(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""


def _count(value: object) -> int:
    if not isinstance(value, int):
        value = int(value) if isinstance(value, float) and value.is_integer() else 0
    return value if 0 <= value < _MOST else 0


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
