"""What goes in and what comes out: messages, requests, pieces of a stream, completions, attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from orchestrator import core
from orchestrator.core.errors import InvalidRequestError, OrchestratorError
from orchestrator.core.record import record

if TYPE_CHECKING:
    from orchestrator.core.config import GenerationParams, Timeouts

__all__ = [
    "Attempt",
    "Completion",
    "FinishReason",
    "Finished",
    "ImagePart",
    "Message",
    "Part",
    "ReasoningDelta",
    "Request",
    "ResponseFormat",
    "Restarted",
    "Role",
    "StreamEvent",
    "TextDelta",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Usage",
]

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@record(frozen=True, slots=True)
class TextPart:
    """A piece of text within a message."""

    text: str


@record(frozen=True, slots=True)
class ImagePart:
    """An image by address: ``https://…`` or ``data:image/…;base64,…``."""

    url: str
    detail: str | None = None


Part = TextPart | ImagePart


@record(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool; ``arguments`` is JSON text as the model wrote it, which may be invalid JSON."""

    id: str
    name: str
    arguments: str


@record(frozen=True, slots=True)
class Message:
    """One turn. A ``tool`` message answers the call ``tool_call_id``; ``name`` is the name of that tool."""

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The image parts, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)  # not a record: it has a default factory
class Tool:
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool | None = None


@record(frozen=True, slots=True)
class ToolChoice:
    """``auto``, ``none``, ``required`` (any tool), or ``named`` with the tool's name."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


@record(frozen=True, slots=True)
class ResponseFormat:
    """Any JSON object (``schema`` is None), or JSON that fits ``schema``."""

    schema: dict[str, Any] | None = None
    name: str = "answer"
    strict: bool | None = None
    description: str | None = None


@record(slots=True)
class Usage:
    """Tokens as the provider counted them. Cached ones are part of the prompt, reasoning ones of the completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@record(slots=True)
class Attempt:
    """One call upstream. Times in seconds; ``started`` is on the loop's clock, ``error`` is None when it answered.

    ``hedge``: it began while an earlier one was under way. ``lost``: it was cancelled because another one was faster.
    """

    provider: str
    model: str | None
    number: int
    started: float
    duration: float = 0.0
    time_to_first_token: float | None = None
    error: OrchestratorError | None = None
    usage: Usage | None = None
    hedge: bool = False
    lost: bool = False


@record(slots=True)
class Completion:
    """Everything known about an answer.

    ``recoveries``: how often its stream broke and was taken up again; ``usage`` is then what all attempts told.

    ``latency`` and ``time_to_first_token`` are seconds from the caller's call to the whole answer and to its first
    piece (``None`` for a plain call, where it cannot be seen). ``usage`` and ``cost`` (USD: as the provider billed it,
    else by the prices of its ``ProviderConfig``) are ``None`` when that is not known. ``raw`` is the provider's own
    JSON, ``None`` after a stream.
    """

    text: str
    model: str | None = None
    provider: str | None = None
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    cost: float | None = None
    latency: float = 0.0
    time_to_first_token: float | None = None
    attempts: tuple[Attempt, ...] = ()
    request_id: str | None = None
    raw: Any = field(default=None, repr=False)
    recoveries: int = 0


@record(slots=True)
class TextDelta:
    """The next piece of the answer's text; never empty."""

    text: str


@record(slots=True)
class ReasoningDelta:
    """The next piece of the model's reasoning, where the provider shows it."""

    text: str


@record(slots=True)
class ToolCallDelta:
    """A fragment of the tool call number ``index``; ``id`` and ``name`` come with its first fragment."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@record(slots=True)
class Restarted:
    """The stream broke, and ``provider`` answers from the beginning: what came before, ``discarded``, is void."""

    provider: str
    discarded: str
    error: OrchestratorError


@record(slots=True)
class Finished:
    """The last event of a stream: the answer is whole."""

    completion: Completion


StreamEvent = TextDelta | ReasoningDelta | ToolCallDelta | Restarted | Finished


class Request:
    """What the user asked, once per call and shared by all attempts; treat it as frozen.

    ``needs`` names the features a provider must have (``BaseProvider.supports``): the knobs that are set, and
    ``messages`` (anything but one user text), ``images``, ``tools``, ``tool_choice``, ``json_object``, ``json_schema``,
    ``prefill`` (the last message is the beginning of the answer, and the model shall go on right after it).
    ``session`` names what the request belongs to, a conversation or a user: see the strategy ``affinity``.
    """

    __slots__ = (
        "_messages", "needs", "params", "prefill", "prompt", "response_format", "session", "stream", "timeouts",
        "tool_choice", "tools",
    )

    # Defaults of keyword-only arguments would be looked up by name, one by one, at every call.
    def __init__(  # noqa: PLR0917
        self,
        prompt: str | None = None,
        params: GenerationParams | None = None,
        stream: bool = False,  # noqa: FBT001, FBT002  # the router gives these by position
        timeouts: Timeouts | None = None,
        session: str | None = None,
        messages: Sequence[Message] | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        prefill: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        if messages is None:
            if not prompt:
                raise InvalidRequestError("the prompt is empty")
        elif prompt is None:
            prompt = _only_text(messages)
        self.prompt = prompt
        self.params = params
        self._messages = messages
        self.tools = tools
        self.tool_choice = tool_choice
        self.response_format = response_format
        self.stream = stream
        self.prefill = prefill
        self.timeouts = core.config.DEFAULT_TIMEOUTS if timeouts is None else timeouts
        self.session = session
        self.needs: frozenset[str] = _NOTHING
        if params is not None or messages is not None or tools or tool_choice or response_format:
            self.needs = self._needs()

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation; a prompt is one user message."""
        if self._messages is None:
            self._messages = (Message("user", self.prompt or ""),)
        return self._messages

    def _needs(self) -> frozenset[str]:
        needs = set(self.params.given()) if self.params else set()
        if self._messages is not None:
            if self.prompt is None:
                needs.add("messages")
            if any(message.images for message in self._messages):
                needs.add("images")
            if any(message.tool_calls or message.role == "tool" for message in self._messages):
                needs.add("tools")
        if self.prefill:
            needs.add("prefill")
        if self.tools:
            needs.add("tools")
        if self.tool_choice:
            needs.add("tool_choice")
        if self.response_format:
            needs.add("json_object" if self.response_format.schema is None else "json_schema")
        return frozenset(needs)

    def __repr__(self) -> str:
        return f"Request(messages={len(self.messages)}, needs={sorted(self.needs)}, stream={self.stream})"


def _only_text(messages: Sequence[Message]) -> str | None:
    """The text of a conversation that is one user text, and so can be carried by whoever takes a prompt."""
    if len(messages) != 1 or messages[0].role != "user" or messages[0].name or messages[0].images:
        return None
    return messages[0].text or None


_NOTHING: frozenset[str] = frozenset()
