"""The guards of one attempt, in order; plain and streamed calls are one path until the last step.

retry     in place, outermost: each try takes a lease and a permit of its own
lease     rpm, tpm, concurrency, pause: our own refusal says nothing about the provider, so it sits above the breaker
breaker   permit; judged by what is below it
time      connect, first token, idle, attempt: a timeout is the provider's failure, so it sits below the breaker
provider  encode, send, decode; what it raises becomes one of our errors here, the one boundary for foreign exceptions
"""

from __future__ import annotations

from orchestrator.attempt import Call, Running
from orchestrator.candidate import Candidate
from orchestrator.core.accumulate import check_completion
from orchestrator.core.errors import CapacityError, CircuitOpenError, OrchestratorError, Retry
from orchestrator.core.events import RetryScheduled
from orchestrator.core.types import Completion
from orchestrator.resilience.retry import RetryInPlace
from orchestrator.stream import LiveStream

__all__ = ["answer_from"]


async def answer_from(call: Call, candidate: Candidate, at: float) -> Completion | LiveStream:
    """An answer, or an opened stream, of this provider; raises when it is given up for this request.

    ``at``: loop time, just read.
    """
    try:
        return await _attempt(call, candidate, at)
    except OrchestratorError as error:
        if error.retry is Retry.NO or candidate is call.last_resort:  # nor are refusals
            raise
        first = error
    earlier = sum(attempt.provider == candidate.name for attempt in call.attempts) - 1
    policy = candidate.retry_policy.model_copy(update={"max_retries": max(0, candidate.max_retries - earlier)})

    def announce(error: OrchestratorError, delay: float) -> None:
        if call.emit is not None:
            call.emit(RetryScheduled(call.loop.time(), call.id, candidate.name, delay, error))

    async def again() -> Completion | LiveStream:
        return await _attempt(call, candidate, call.loop.time())

    retry = RetryInPlace(
        policy, random=candidate.random, remaining=call.remaining, afford=candidate.afford, on_retry=announce
    )
    try:
        return await retry.run(first, again)
    except CircuitOpenError:
        # Refused meanwhile (other requests failed too): what this request saw is the better reason. Where it was only
        # crowded out between two retries, the refusal goes on: it waits for its turn.
        own = (attempt.error for attempt in reversed(call.attempts) if attempt.provider == candidate.name)
        last = next((error for error in own if error is not None), first)
        raise last from last.__cause__
    finally:
        del first  # its traceback holds this frame


async def _attempt(call: Call, candidate: Candidate, at: float) -> Completion | LiveStream:
    if at >= call.deadline:  # a wait ended late
        raise CapacityError("the deadline has passed", provider=candidate.name, model=candidate.model)
    tokens = 0 if candidate.limits is None else call.tokens(candidate)
    permit = candidate.admit(at, tokens, call.last_resort is candidate)
    running = Running(call, candidate, permit, at)
    call.watch.move(running, running.latest())
    try:
        if not candidate.entered:
            await candidate.enter()
        if running.streamed:
            stream = await _open(running)
        else:
            answer = check_completion(await candidate.provider.complete(call.request), candidate.name)
    except BaseException as exc:
        call.watch.disarm(running)
        error = running.fail(exc, running.opening_phase, call.loop.time() - at, running.allowed())
        if error is exc:
            raise
        raise error from error.__cause__
    if running.streamed:
        in_sight = call.request.stream and (not call.text_only or stream.shows_text)
        return stream if in_sight else await _read(call, stream)
    call.watch.disarm(running)
    if running.expired:
        running.settle()  # it answered although it was cancelled: then the answer counts
    if running.race is not None:
        running.race.answered(running, answer)
    return running.succeed(answer)


async def _read(call: Call, stream: LiveStream) -> Completion | LiveStream:
    """As much of an opened stream as its reader cannot see: until then another provider can take over unnoticed too."""
    if not call.request.stream:
        return await stream.whole()
    await stream.reach_text()
    return stream


async def _open(running: Running) -> LiveStream:
    """Up to the first event: until then another provider can take over unnoticed."""
    call, candidate = running.call, running.candidate
    request = call.request if call.adapt is None else call.adapt(candidate, call.request)
    stream = LiveStream(running, candidate.provider.open_stream(request), may_be_empty=request.prefill)
    try:
        await stream.open()
    except BaseException:
        running.call.watch.disarm(running)
        await stream.close()
        raise
    if running.race is not None:
        running.race.answered(running, None)
    return stream
