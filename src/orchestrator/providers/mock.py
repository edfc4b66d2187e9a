"""A provider without a service: fixed answers, delays, failures and broken streams, for tests, demos and benchmarks."""

from __future__ import annotations

import re
from asyncio import Future, get_running_loop, sleep
from collections.abc import AsyncGenerator, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from orchestrator.core.errors import ConnectionFailedError, OrchestratorError
from orchestrator.core.types import (
    Completion,
    Finished,
    ReasoningDelta,
    Request,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from orchestrator.providers.base import (
    EVERYTHING,
    AuthenticationError,
    BaseProvider,
    InvalidRequestError,
    RateLimitError,
    TimeoutError,
)

if TYPE_CHECKING:
    from orchestrator.core.config import ProviderConfig

__all__ = ["MODES", "Answer", "BrokenStream", "Fail", "Hang", "MockProvider", "Step"]

_WORD = re.compile(r"\S+\s*|\s+")


def _check_error(error: object) -> None:
    if isinstance(error, type) and issubclass(error, Exception):
        error = error()  # a class that needs arguments should fail here, not in the middle of a test
    if not isinstance(error, Exception):
        raise TypeError(f"an error is an exception or its class, not {error!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: a text or a whole :class:`Completion`; None echoes the prompt.

    It comes ``delay`` seconds after the call. A stream brings it in ``pieces`` (by default its words), ``gap`` seconds
    apart; a plain call takes as long as the stream would.
    """

    answer: str | Completion | None = None
    delay: float = 0.0
    pieces: Sequence[str] | None = None
    gap: float = 0.0
    usage: Usage | None = None

    def __post_init__(self) -> None:
        if self.pieces is None:
            return
        whole = "".join(self.pieces)
        if self.answer is None:
            object.__setattr__(self, "answer", whole)
        elif whole != (self.answer.text if isinstance(self.answer, Completion) else self.answer):
            raise ValueError(f"the pieces make {whole!r}, which is not the answer {self.answer!r}")


@dataclass(frozen=True, slots=True)
class Fail:
    """The error, an instance or a class, ``delay`` seconds after the call."""

    error: Exception | type[Exception]
    delay: float = 0.0
    pieces: ClassVar[Sequence[str]] = ()
    gap: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _check_error(self.error)


@dataclass(frozen=True, slots=True)
class BrokenStream:
    """``pieces`` after ``delay`` seconds, ``gap`` seconds apart, then the error; a plain call gets only the error."""

    pieces: Sequence[str]
    error: Exception | type[Exception] = ConnectionFailedError
    delay: float = 0.0
    gap: float = 0.0

    def __post_init__(self) -> None:
        _check_error(self.error)


@dataclass(frozen=True, slots=True)
class Hang:
    """``pieces``, then nothing, for ever."""

    pieces: Sequence[str] = ()
    delay: ClassVar[float] = 0.0
    gap: ClassVar[float] = 0.0


Step = Answer | Fail | BrokenStream | Hang

MODES: dict[str, Step] = {
    "mock-normal": Answer(),
    "mock-timeout": Fail(TimeoutError("mock timeout")),
    "mock-ratelimit": Fail(RateLimitError("mock rate limit", status_code=429)),
    "mock-auth-error": Fail(AuthenticationError("mock authentication failure", status_code=401)),
    "mock-invalid-request": Fail(InvalidRequestError("mock invalid request", status_code=400)),
    "mock-unhealthy": Answer(),
}


class MockProvider(BaseProvider):
    """Answers, or fails, as ``config.model`` says (one of ``MODES``) or, call by call, as the ``script`` does.

    A script is made of answers (``str``, ``Completion``), exceptions (instances or classes), and steps: ``Answer``,
    ``Fail``, ``BrokenStream``, ``Hang``. Its last step repeats; with ``cycle`` it begins again. ``delay`` seconds pass
    before every answer or failure. ``max_tokens`` cuts the text, in characters; other parameters change nothing.
    ``calls`` holds every request that came.
    """

    streams_usage = True
    supports: ClassVar[frozenset[str]] = EVERYTHING

    def __init__(
        self,
        config: ProviderConfig,
        *,
        script: Iterable[Step | str | Completion | Exception | type[Exception]] | None = None,
        cycle: bool = False,
        delay: float = 0.0,
    ) -> None:
        super().__init__(config)
        self.calls: list[Request] = []
        self.delay = delay
        self._cycle = cycle
        self._at = 0
        self._steps = tuple(map(_step, () if script is None else script))
        if script is None:
            self._take_mode()
            config.on_change(self._take_mode)
        elif not self._steps:
            raise ValueError("the script is empty")

    def _take_mode(self) -> None:
        self._steps = (_mode(self.config.model),)

    async def complete(self, request: Request) -> Completion:
        """The next step, as a plain call."""
        step = self._next(request)
        completion = self._completion(step, request) if isinstance(step, Answer) else None
        seconds = self.delay + step.delay
        if step.gap:
            seconds += step.gap * max(0, len(_pieces(step, completion)) - 1)
        if seconds:
            await sleep(seconds)
        return completion if completion is not None else await self._no_answer(step)

    async def open_stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """The next step, piece by piece."""
        step = self._next(request)
        completion = self._completion(step, request) if isinstance(step, Answer) else None
        if self.delay + step.delay:
            await sleep(self.delay + step.delay)
        if completion is not None and completion.reasoning:
            yield ReasoningDelta(completion.reasoning)
        for number, piece in enumerate(_pieces(step, completion)):
            if number and step.gap:
                await sleep(step.gap)
            yield TextDelta(piece)
        if completion is None:
            completion = await self._no_answer(step)
        for index, call in enumerate(completion.tool_calls):
            yield ToolCallDelta(index, call.id, call.name, call.arguments)
        yield Finished(completion)

    async def health_check(self) -> bool:
        """False if the mode's name holds "unhealthy"."""
        return "unhealthy" not in (self.config.model or "").lower()

    def _next(self, request: Request) -> Step:
        self.calls.append(request)
        steps, at = self._steps, self._at
        if at + 1 < len(steps):
            self._at = at + 1
        elif self._cycle:
            self._at = 0
        return steps[at]

    def _completion(self, step: Answer, request: Request) -> Completion:
        answer, model = step.answer, self.config.model
        if isinstance(answer, Completion):
            # The router writes into what it gets, and this one may be played again.
            completion = replace(answer, model=answer.model or model)
        elif answer is None:
            completion = Completion(f"Mock response to: {_asked(request)}", model)
        else:
            completion = Completion(answer, model)
        if step.usage is not None:
            completion.usage = replace(step.usage)
        limit = request.params.max_tokens if request.params is not None else None
        if limit is not None and len(completion.text) > limit:
            completion.text = completion.text[:limit]
            completion.finish_reason = "length"
        return completion

    async def _no_answer(self, step: Step) -> Completion:
        """Raises, or waits for ever."""
        if isinstance(step, Fail | BrokenStream):
            error = step.error() if isinstance(step.error, type) else step.error
            if isinstance(error, OrchestratorError):
                error = copy(error)  # the router writes into it, and this one may be raised again
                error.provider = error.provider or self.name
            raise error.with_traceback(None)
        never: Future[Completion] = get_running_loop().create_future()
        return await never


def _mode(model: str | None) -> Step:
    name = (model or "mock-normal").lower()
    step = MODES.get(name)
    if step is None and "unhealthy" not in name:
        raise ValueError(f"unknown mode {model!r}; modes: {', '.join(MODES)}, or any name that holds 'unhealthy'")
    return step or Answer()


def _step(item: object) -> Step:
    if isinstance(item, Answer | Fail | BrokenStream | Hang):
        return item
    if isinstance(item, str | Completion):
        return Answer(item)
    if isinstance(item, Exception) or (isinstance(item, type) and issubclass(item, Exception)):
        return Fail(item)
    raise TypeError(
        f"a script holds str, Completion, exceptions, Answer, Fail, BrokenStream and Hang, not {type(item).__name__}"
    )


def _asked(request: Request) -> str:
    if request.prompt is not None:
        return request.prompt
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")


def _pieces(step: Step, completion: Completion | None) -> list[str]:
    if completion is None:
        return [piece for piece in step.pieces or () if piece]
    if step.pieces is None:
        words: list[str] = _WORD.findall(completion.text)
        return words
    left = completion.text  # max_tokens may have cut it
    pieces = []
    for piece in step.pieces:
        pieces.append(left[: len(piece)])
        left = left[len(piece) :]
    return [piece for piece in pieces if piece]
