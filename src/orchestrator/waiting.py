"""Waiting for a provider: who looks when. One timer for what comes back, and one at a time is sent to look.

As many as a provider has room for are woken, the first in the queue first; each looks, and takes the call or not, and
either way the next one is woken after it (a baton). So nobody is overtaken but by a probe, no wake-up is lost with a
waiter that is cancelled, and who waits for one provider holds nobody up who waits for another. One at a time would make
a convoy: where calls are shorter than a turn of the loop, those who come wait behind those who came back, for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf

from orchestrator.candidate import Candidate
from orchestrator.core.clock import Random
from orchestrator.resilience.deadline import EPSILON
from orchestrator.resilience.queue import FairQueue, Rank, Ticket

__all__ = ["Place", "WaitingRoom"]

SHORTEST_WAIT = 0.001  # seconds: whoever is refused again although there seems to be room rests so long, then 2, 4…
LONGEST_REST = 1.0
STEP = 0.25  # seconds, mean: longer than most providers take to say 429


class Place(Ticket):
    """The place of a request that waits at most until ``deadline`` (loop time), maybe to probe its ``last_resort``.

    ``tokens``: about how many its call would use at a candidate.
    """

    __slots__ = ("_room", "_tokens", "awake", "deadline", "future", "last_resort", "not_before", "rest", "turn")

    def __init__(
        self, room: WaitingRoom, rank: Rank, deadline: float, tokens: Callable[[Candidate], int]
    ) -> None:
        super().__init__(rank)
        self._tokens = tokens
        self._room = room
        self.deadline = deadline
        self.future: asyncio.Future[None] = room.loop.create_future()
        self.awake = True  # its owner is looking, or about to
        self.last_resort: Candidate | None = None
        self.turn: str | None = None  # the provider it was woken for
        self.not_before = self.rest = 0.0

    def wait_time(self, candidate: Candidate, at: float) -> float:
        """Seconds until a call of this request may be admitted there."""
        wait_time = candidate.last_resort_wait if candidate is self.last_resort else candidate.wait_time
        return wait_time(at, self._tokens(candidate))

    def wake(self, turn: str | None = None) -> None:
        """Tell the owner to look."""
        self.awake = True
        self.turn = turn
        if not self.future.done():
            self.future.set_result(None)

    def leave(self, served_at: float | None = None) -> None:
        """Give it up: for a call that was just admitted, or for good. Once more does no harm."""
        self._room.left(self, served_at)


class WaitingRoom:
    """The queue of one router, its timer, and the easing in of those who waited for a provider that was away."""

    def __init__(self, size: int, *, random: Random, get: Callable[[str], Candidate | None]) -> None:
        self.queue: FairQueue[Place] = FairQueue(size)
        self._random = random
        self._get = get
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._comebacks: dict[str, _Comeback] = {}
        self._served: deque[float] = deque(maxlen=100)  # when the last ones left for a call

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; what another one has left behind must hold up nobody here."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            for place in list(self.queue.tickets):
                self.queue.remove(place)
            self._clear()
        return loop

    def enter(self, place: Place, coming: Sequence[Candidate], at: float) -> bool:
        """Begin to wait, or go on, after a look that was in vain; False when there is no place."""
        before = place.names
        last = self.queue.put(place, tuple(candidate.name for candidate in coming))
        if last is place:
            return False
        if last is not None:
            last.wake()  # it looks once more, and is told that there is no place for it
        place.awake = False
        place.turn = None
        if place.future.done():
            place.future = self.loop.create_future()
        self._rest(place, coming, at)
        # The one that had to go may have been on its way to look at a provider, for all who wait for that.
        self._pass_on((*before, *place.names) if last is None else self.queue.names)
        return True

    async def turn(self, place: Place) -> None:
        """Wait until it is time to look: there may be room, or the deadline has come."""
        timer = self.loop.call_at(place.deadline, place.wake)
        try:
            await place.future
        finally:
            timer.cancel()  # who is cancelled here leaves the queue where its request ends

    def left(self, place: Place, served_at: float | None) -> None:
        """Somebody has gone: those behind move up."""
        names = self.queue.remove(place)
        if names and served_at is not None:
            self._served.append(served_at)
        if not self.queue.tickets:
            self._clear()
        elif not place.future.get_loop().is_closed():
            self._pass_on(names)

    def look(self, candidate: Candidate) -> None:
        """Wake the first who waits for it if there is room; if not, look again when there may be."""
        claims = self.queue.claims(candidate.name)
        if not claims:
            self._comebacks.pop(candidate.name, None)
            return
        if claims[0].awake and claims[-1].awake:
            return  # their owners are about to look, and pass it on
        at = claims[0].future.get_loop().time()
        room = candidate.room(at)
        for place in [self._next(candidate)] if room <= 1 else list(claims):
            if not (place.awake or self._call(candidate, place, at)):
                return
            room -= 1
            if room <= 0:
                return

    def _call(self, candidate: Candidate, place: Place, at: float) -> bool:
        """Wake it if there is room for it; if not, look again when there may be, and say whether for others, too."""
        wait = self._wait_time(candidate, place, at)
        if wait <= 0:
            if comeback := self._comebacks.get(candidate.name):
                comeback.take(at, self._random)
            place.wake(candidate.name)
            return True
        if wait > place.deadline - at and self._in_vain(place, at):
            place.wake()  # to be told at once
        elif wait < inf:
            self._look_at(at + max(wait + EPSILON, SHORTEST_WAIT))
        return place.not_before > at

    def claimed(self, name: str, rank: Rank, place: Place | None) -> bool:
        """Whether a request, in its ``place`` if it has one, must leave that provider to somebody ahead of it."""
        claims = self.queue.claims(name)
        if not claims or claims[0].rank >= rank or (place is not None and place.turn == name):
            return False
        candidate = self._get(name)
        if candidate is None or candidate.room(claims[0].future.get_loop().time()) < inf:
            return True
        # There is room for all: only those who are let in step by step are to be waited for.
        return not (claims[0].awake and (place or claims[-1]).awake)

    def tend(self) -> None:
        """Look at every provider somebody waits for: something may have changed."""
        self._pass_on(self.queue.names)

    def wake_all(self) -> None:
        """Let everybody look, in order: there are other providers, or other settings."""
        for place in list(self.queue.tickets):
            place.wake()

    def retry_after(self, at: float) -> float | None:
        """Seconds in which all who wait now will have been served, at the pace of the last ones (Little's law)."""
        if not self._served:
            return None
        return len(self.queue.tickets) * (at - self._served[0]) / len(self._served)

    def _next(self, candidate: Candidate) -> Place:
        """Whose turn it is: the first's. But a probe is for who has the most time to see how it ends.

        The first may be about to give up, and a probe that is cut off by the deadline of its request proves nothing.
        """
        claims = self.queue.claims(candidate.name)
        if len(claims) > 1 and candidate.probing:
            return max(claims, key=lambda place: (place.last_resort is candidate, place.deadline))
        return claims[0]

    def _pass_on(self, names: Iterable[str]) -> None:
        for name in dict.fromkeys(names):
            candidate = self._get(name)
            if candidate is not None:
                self.look(candidate)

    def _wait_time(self, candidate: Candidate, place: Place, at: float) -> float:
        wait = place.wait_time(candidate, at)
        comeback = self._comebacks.get(candidate.name)
        if candidate.away(at):
            if comeback is None or comeback.begun:
                self._comebacks[candidate.name] = _Comeback(at)
        elif wait <= 0 and comeback is not None:
            wait = comeback.wait_time(at)
        return max(wait, place.not_before - at - EPSILON)

    def _rest(self, place: Place, coming: Sequence[Candidate], at: float) -> None:
        """Somebody it is first for has room: it looks again at once; if that is in vain, later and later."""
        if any((c.room(at) > 1 or self._next(c) is place) and place.wait_time(c, at) <= 0 for c in coming):
            place.not_before = at + place.rest
            place.rest = min(max(2 * place.rest, SHORTEST_WAIT), LONGEST_REST)
        else:
            place.rest = place.not_before = 0.0

    def _in_vain(self, place: Place, at: float) -> bool:
        """Whether nobody it waits for will be back before its deadline, as far as a clock can tell."""
        candidates = [candidate for name in place.names if (candidate := self._get(name))]
        return not any(c.wakes or place.wait_time(c, at) <= place.deadline - at for c in candidates)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        assert self._loop is not None  # noqa: S101  # somebody waits in it; narrows the type
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tend()

    def _clear(self) -> None:
        """Nobody waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._comebacks.clear()
        self._served.clear()


class _Comeback:
    """A provider is back after a pause or a break: of those who waited for it, 1, 2, 4… are let in per step.

    All at once they would bring about the next 429. A provider says that fast but answers slowly, so the steps go by
    the clock and not by answers: what is refused before the next step begins another pause. Jittered, for other
    processes were told the same Retry-After. After less than a second the steps are a quarter of the time that was
    waited, ``since`` when: few have gathered, and easing in must not take longer than what it follows.
    """

    __slots__ = ("_batch", "_left", "_next_at", "_since", "_step")

    def __init__(self, since: float) -> None:
        self._batch = self._left = 1
        self._next_at = 0.0
        self._since = since
        self._step = 0.0

    @property
    def begun(self) -> bool:
        """Whether somebody was let in."""
        return self._step > 0

    def wait_time(self, at: float) -> float:
        """Seconds until the next may be let in."""
        if not self._left:
            wait = self._next_at - at - EPSILON
            if wait > 0:
                return wait
            self._batch *= 2
            self._left = self._batch
        return 0.0

    def take(self, at: float, random: Random) -> None:
        """One is let in."""
        if not self.begun:
            self._step = min(STEP, max((at - self._since) / 4, EPSILON))
        self._left -= 1
        if not self._left:
            self._next_at = at + self._step * random.uniform(0.5, 1.5)
