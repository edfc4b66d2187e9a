"""A stream that broke goes on elsewhere, if a policy says so: begun anew in the open, or continued and stitched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from orchestrator.attempt import Call
from orchestrator.candidate import Candidate
from orchestrator.core.errors import OrchestratorError, StreamInterruptedError
from orchestrator.core.events import Recovering
from orchestrator.core.stitch import Overlap, Remainder
from orchestrator.core.types import (
    Attempt,
    Completion,
    Finished,
    Message,
    ReasoningDelta,
    Request,
    Restarted,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from orchestrator.dispatch import Dispatcher
from orchestrator.providers._batches import Batch
from orchestrator.resilience.deadline import EPSILON
from orchestrator.stream import LiveStream, broke_after

if TYPE_CHECKING:
    from orchestrator.core.config import GenerationParams, RecoveryPolicy

__all__ = ["recovered"]

CHARACTERS_PER_TOKEN = 4  # the usual estimate for English; for other scripts too many, so no answer is cut too short


async def recovered(
    policy: RecoveryPolicy, dispatcher: Dispatcher, call: Call, live: LiveStream, *, text_only: bool
) -> AsyncGenerator[Batch, None]:
    """The events of one request in batches, whatever breaks meanwhile.

    A reader who is ``text_only`` cannot be told that the answer begins anew: it gets the rest of the new answer if that
    begins with what it has, else :class:`StreamInterruptedError`.
    """
    reader = _Reader(policy, dispatcher, call, live, text_only=text_only)
    while True:
        broken = False
        try:
            async with aclosing(live):
                async for batch in live:
                    taken = reader.take(batch)
                    if taken:
                        yield taken
                    if reader.differs:
                        break
        except StreamInterruptedError as error:
            broken = True
            reader.broke(error)
        if reader.differs:
            raise reader.failed("recovery failed: the new answer does not begin with the text that was handed out")
        if not broken:
            return
        live, restarted = await reader.resume()
        if restarted is not None:
            left = True
            try:
                yield [restarted]
                left = False
            finally:
                if left:  # before the new stream was begun
                    await live.aclose()


class _Reader:
    """What the reader of one stream has got so far, and how it comes to the rest."""

    __slots__ = (
        "_broken", "_call", "_dispatcher", "_error", "_first", "_given", "_policy", "_reasoning", "_recoveries",
        "_refused", "_stitch", "_text_only", "_to_continue", "_tokens", "_tools", "differs",
    )

    def __init__(
        self, policy: RecoveryPolicy, dispatcher: Dispatcher, call: Call, live: LiveStream, *, text_only: bool
    ) -> None:
        self._policy = policy
        self._dispatcher = dispatcher
        self._call = call
        self._text_only = text_only
        self._first = live.time_to_first_token
        self._error: StreamInterruptedError | None = None
        self._recoveries = 0
        self._broken: list[str] = []  # providers whose streams broke, and who were not asked again since
        self._refused: set[str] = set()  # providers who do not take a continuation
        self._to_continue: set[str] = set()  # providers who were asked for one, this time
        self._stitch: Overlap | Remainder | None = None
        self.differs = False  # a text-only reader has something else than this answer
        self._forget()

    def _forget(self) -> None:
        self._given: list[str] = []
        self._reasoning: list[str] = []
        self._tools = False  # a tool call was begun
        self._tokens = 0  # told for what was given

    def take(self, batch: Batch) -> Batch:
        """What the reader gets of the stream's next events, until it has something else than they say."""
        taken: Batch = []
        for event in batch:
            taken += self._take(event)
            if self.differs:
                break
        return taken

    def _take(self, event: StreamEvent) -> Iterable[StreamEvent]:
        if isinstance(event, TextDelta):
            return self._take_text(event)
        if isinstance(event, Finished):
            return self._finish(event.completion)
        if isinstance(event, ToolCallDelta):
            self._tools = True
            return [*self._rest(), event]
        if isinstance(event, ReasoningDelta):
            self._reasoning.append(event.text)
        else:  # of a provider that is itself a router
            if self._text_only:
                self._stitch = Remainder("".join(self._given))
                return ()
            self._stitch = None
            self._forget()
        return (event,)

    def _take_text(self, event: TextDelta) -> Iterable[StreamEvent]:
        text: str | None = event.text
        if self._stitch is not None:
            text = self._stitch.feed(event.text)
            if text is None:
                self.differs = True
            if not text:
                return ()
            event = TextDelta(text)
        self._given.append(event.text)
        return (event,)

    def _rest(self) -> Sequence[StreamEvent]:
        """What was held back, as it cannot be a repetition any more."""
        text = self._stitch.rest() if isinstance(self._stitch, Overlap) else ""
        if not text:
            return ()
        self._given.append(text)
        return (TextDelta(text),)

    def _finish(self, completion: Completion) -> Sequence[StreamEvent]:
        if isinstance(self._stitch, Remainder) and not self._stitch.whole:
            self.differs = True
            return ()
        rest = self._rest()
        if self._recoveries:  # a copy: the attempt's own answer was told to listeners
            completion = replace(
                completion, text="".join(self._given) or completion.text,
                reasoning="".join(self._reasoning) or completion.reasoning, usage=_total(self._call.attempts),
                time_to_first_token=self._first, recoveries=self._recoveries,
            )
        return (*rest, Finished(completion))

    def broke(self, error: StreamInterruptedError) -> None:
        """The stream broke."""
        self._error = error
        self._broken.append(str(error.provider))
        self._tokens += error.usage.completion_tokens if error.usage is not None else 0

    async def resume(self) -> tuple[LiveStream, Restarted | None]:
        """The stream that goes on, and the announcement of it if it begins anew; raises the error if there is none."""
        call = self._call
        partial = "".join(self._given)  # without what was held back: the next one goes on from what the reader has
        cause = self._error.__cause__ if self._error is not None else None
        if not isinstance(cause, OrchestratorError) or not self._may_recover(cause):
            raise self.failed() from cause
        self._recoveries += 1
        self._to_continue.clear()
        goes_on = self._policy.mode == "continue" and bool(partial) and not self._tools
        call.adapt = self._adapt if goes_on else None
        if call.emit is not None:
            mode: Literal["continue", "restart"] = "continue" if goes_on else "restart"
            call.emit(Recovering(call.loop.time(), call.id, self._broken[-1], mode, len(partial), cause))
        try:
            live = await self._dispatcher.resume(call, self._broken, self._refuse)
        except OrchestratorError as failure:
            note, retry_after = f"recovery failed: {type(failure).__name__}: {failure}", failure.retry_after
        else:
            return live, self._stitch_to(live, partial, cause)
        raise self.failed(note, retry_after) from cause

    def _may_recover(self, cause: OrchestratorError) -> bool:
        if not cause.failover or (self._tools and self._text_only):  # the caller's fault, or half a tool call
            return False
        return self._recoveries < self._policy.max_recoveries and self._call.remaining() > EPSILON

    def _stitch_to(self, live: LiveStream, partial: str, cause: OrchestratorError) -> Restarted | None:
        policy = self._policy
        self._stitch = None
        if live.provider in self._to_continue:
            self._stitch = Overlap(partial, shortest=policy.min_overlap, longest=policy.max_overlap)
        elif self._text_only:
            self._stitch = Remainder(partial)
        else:
            self._forget()
            return Restarted(live.provider, partial, cause)
        return None

    def failed(self, note: str = "", retry_after: float | None = None) -> StreamInterruptedError:
        """The error of the last break, with all that the reader has got and all that was tried."""
        error, self._error = self._error or StreamInterruptedError(), None
        error.partial = "".join(self._given)
        if isinstance(error.__cause__, OrchestratorError):
            error.args = (broke_after(error.partial, error.__cause__),)
        error.attempts = tuple(self._call.attempts)
        error.usage = _total(self._call.attempts)
        error.retry_after = error.retry_after if retry_after is None else retry_after
        if note:
            error.add_note(note)
        return error

    def _refuse(self, provider: str) -> bool:
        """Whether this provider turned down a continuation, and may take the request itself."""
        if provider not in self._to_continue:
            return False
        self._to_continue.discard(provider)
        self._refused.add(provider)
        return True

    def _adapt(self, candidate: Candidate, request: Request) -> Request:
        """How this provider is asked: to go on right after the text, else by an instruction, else from the start."""
        self._to_continue.discard(candidate.name)
        if candidate.name in self._refused:
            return request
        for prefill in (True, False):
            if not prefill and (self._policy.instruction is None or request.response_format is not None):
                break  # half a JSON text is not completed by a further message
            wanted = self._continuation(request, prefill=prefill)
            if candidate.provider.unsupported(wanted) is None:
                self._to_continue.add(candidate.name)
                return wanted
        return request

    def _continuation(self, request: Request, *, prefill: bool) -> Request:
        text = "".join(self._given)
        messages = list(request.messages)
        last = messages[-1]
        if last.role == "assistant" and isinstance(last.content, str) and not last.tool_calls:
            messages[-1] = replace(last, content=last.content + text)  # the caller had begun the answer
        else:
            messages.append(Message("assistant", text))
        if not prefill:
            messages.append(Message("user", self._policy.instruction or ""))
        return Request(
            params=self._fewer_tokens(request.params, len(text)), messages=messages, tools=request.tools,
            tool_choice=request.tool_choice, response_format=request.response_format, stream=True, prefill=prefill,
            timeouts=request.timeouts,
        )

    def _fewer_tokens(self, params: GenerationParams | None, length: int) -> GenerationParams | None:
        if params is None or params.max_tokens is None:
            return params
        used = max(self._tokens, length // CHARACTERS_PER_TOKEN)
        return params.model_copy(update={"max_tokens": max(1, params.max_tokens - used)})


def _total(attempts: Iterable[Attempt]) -> Usage | None:
    """What all attempts together are known to have used."""
    told = [attempt.usage for attempt in attempts if attempt.usage is not None]
    if not told:
        return None
    return Usage(
        sum(usage.prompt_tokens for usage in told), sum(usage.completion_tokens for usage in told),
        sum(usage.cached_tokens for usage in told), sum(usage.reasoning_tokens for usage in told),
    )
