"""Who asks what, and when: Poisson arrivals, bursts, and conversations that go on after their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import inf, log
from typing import Self

from orchestrator.core.clock import new_random
from orchestrator.simulation.luck import LEVELS, STEP, log_normal, mixed, uniform, uniforms
from orchestrator.simulation.model import PriorityClass, Sizes, TrafficModel

__all__ = ["Job", "Traffic"]

CHARACTERS = 4  # per token, in the text of a prompt
_FILLER = "All work and no play makes a dull prompt. " * 25
_LONG = _FILLER * 128  # longer than most prompts: a slice of it is the cheapest way to so many characters
_KIND, _SESSION = 1, 2  # which draws of a request
_SESSION_BITS = 20  # room for conversations at one place, and for their turns


class Job(str):
    """A prompt, and what the modelled world has to know about the request.

    A string, so that it goes through any router as the prompt it is; two prompts of a conversation have the same
    beginning. ``key`` is its luck; ``at`` the loop time it is asked; ``number`` counts the requests of the run;
    ``session`` is its conversation (-1: none) and ``turn`` its place there; ``kind`` the index of its class (-1: none).
    """

    __slots__ = (
        "at", "completion_tokens", "key", "kind", "number", "place", "priority", "prompt_tokens", "session", "streamed",
        "timeout", "tries", "turn",
    )

    key: int
    at: float
    number: int
    prompt_tokens: int
    completion_tokens: int
    streamed: bool
    timeout: float | None
    priority: int
    kind: int
    session: int
    place: int
    turn: int
    tries: int

    def __new__(
        cls, text: str = "", key: int = 0, prompt_tokens: int = 1, completion_tokens: int = 1, at: float = 0.0
    ) -> Self:
        """A request without a conversation, plain."""
        job = str.__new__(cls, text)
        job.key = key
        job.at = at
        job.prompt_tokens = prompt_tokens
        job.completion_tokens = completion_tokens
        job.streamed = False
        job.timeout = None
        job.priority = job.turn = job.tries = 0
        job.number = job.kind = job.session = job.place = -1
        return job

    def tried(self, provider: int) -> int:
        """Count a call at the provider of this index; returns how many there were before."""
        tries = self.tries
        before = (tries >> (8 * provider)) & 0xFF if tries else 0
        if before < 0xFF:
            self.tries = tries + (1 << (8 * provider))
        return before

    @classmethod
    def written(cls, head: str, prompt_tokens: int, completion_tokens: int, key: int, at: float = 0.0) -> Self:
        """A prompt of that length."""
        missing = prompt_tokens * CHARACTERS - len(head)
        if missing > 0:
            head += (_LONG if missing <= len(_LONG) else _FILLER * (missing // len(_FILLER) + 1))[:missing]
        return cls(head, key, prompt_tokens, completion_tokens, at)

    @classmethod
    def foreign(cls, text: str, seed: int) -> Self:
        """Somebody else's prompt: sized by its length, with its text for luck."""
        key = mixed(seed)
        for byte in text[:64].encode("utf-8", "replace"):
            key = mixed(key ^ byte)
        return cls(text, key, len(text) // CHARACTERS + 1, 100)


class Traffic:
    """Draws the requests of one run. The n-th Poisson request is the same in every run of a seed."""

    def __init__(self, model: TrafficModel, *, seed: int, until: float) -> None:
        self.model = model
        self._seed = mixed(seed)
        self._until = until
        self._classes = _cumulated(model.classes)
        self._kinds = bool(model.streamed or self._classes or model.deadline_s)  # not all requests are of one kind
        self._prompts = _sizes(model.prompt_tokens)
        self._answers = _sizes(model.completion_tokens)

    def arrivals(self) -> Iterator[Job]:
        """The requests that wait for nobody, in order of time."""
        random = new_random(self._seed)
        most = self.model.rate_rps + sum(burst.extra_rps for burst in self.model.bursts)
        at, number = 0.0, 0
        while most:
            at += random.expovariate(most)
            if at >= self._until:
                return
            if not self.model.bursts or random.random() * most < self._rate(at):
                number += 1
                yield self._single(at, number)

    def openings(self) -> Iterator[Job]:
        """The first turns of the conversations that are there from the beginning; in no order."""
        sessions = self.model.sessions
        if sessions is None:
            return
        for place in range(sessions.number):
            key = self._turn_key(place, place, 0)
            begins = sessions.think_s * uniform(mixed(key ^ _SESSION))
            if begins < self._until:
                yield self._turn(place, place, 0, sessions.prefix_tokens, begins)

    def after(self, job: Job, at: float, *, answered: bool) -> Job | None:
        """The next turn at this one's place, when it ended at ``at``; None when the run is over by then."""
        sessions = self.model.sessions
        if sessions is None or job.place < 0:
            return None
        begins = at - sessions.think_s * log(uniform(mixed(job.key ^ _SESSION)))
        if begins >= self._until:
            return None
        if answered and job.turn + 1 < sessions.turns:
            history = job.prompt_tokens + job.completion_tokens
            return self._turn(job.place, job.session, job.turn + 1, history, begins)
        return self._turn(job.place, job.session + sessions.number, 0, sessions.prefix_tokens, begins)

    def _rate(self, at: float) -> float:
        return self.model.rate_rps + sum(burst.at(at) for burst in self.model.bursts)

    def _single(self, at: float, number: int) -> Job:
        key = mixed(self._seed + number * STEP)
        new, answer = self._sizes(key)
        job = Job.written(f"Request {number}. ", new, answer, key, at)
        return self._kind(job) if self._kinds else job

    def _turn(self, place: int, session: int, turn: int, history: int, at: float) -> Job:
        key = self._turn_key(place, session, turn)
        new, answer = self._sizes(key)
        job = Job.written(f"Session {session}. ", history + new, answer, key, at)
        job.place, job.session, job.turn = place, session, turn
        return self._kind(job) if self._kinds else job

    def _turn_key(self, place: int, session: int, turn: int) -> int:
        return mixed(mixed(self._seed ^ _SESSION) + ((session << _SESSION_BITS) + place << _SESSION_BITS) + turn)

    def _sizes(self, key: int) -> tuple[int, int]:
        return self._prompts[key >> 52], self._answers[(key >> 40) & (LEVELS - 1)]

    def _kind(self, job: Job) -> Job:
        model = self.model
        job.timeout = model.deadline_s
        bits = mixed(job.key ^ _KIND)
        job.streamed = uniform(bits) < model.streamed
        if self._classes:
            kind = uniforms(bits)[2]
            job.kind = next(index for index, share in enumerate(self._classes) if kind < share)
            chosen = model.classes[job.kind]
            job.timeout, job.priority = chosen.deadline_s or model.deadline_s, chosen.priority
        return job


@cache
def _sizes(sizes: Sizes) -> Sequence[int]:
    return [max(1, min(round(size), sizes.most)) for size in log_normal(sizes.median, sizes.sigma)]


def _cumulated(classes: tuple[PriorityClass, ...]) -> list[float]:
    total, shares = 0.0, []
    for each in classes:
        total += each.share
        shares.append(total)
    return [share / total for share in shares[:-1]] + [inf] if shares else []
