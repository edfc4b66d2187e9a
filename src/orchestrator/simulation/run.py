"""What a run has brought: one row per request in columns, and the timeline."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import nan

from orchestrator.simulation.summary import Summary, summary
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import Ledger

__all__ = ["ANSWERED", "BreakerChange", "Requests", "Run", "Sample", "Span", "Timeline"]

_UNDER_WAY = (nan, nan, -1, 0)
ANSWERED = 0  # in the column ``outcome``: index 0 of ``Requests.outcomes``


class Requests:
    """Columns; row n is the n-th request that began. Seconds, USD, tokens.

    ``begun`` is loop time; ``first_token`` and ``latency`` count from there, the former is nan without a first token.
    ``outcome`` is an index into ``outcomes``: "answered", or an error's class. ``provider`` is an index into
    ``Run.providers``, -1 for none. ``attempts`` are calls on the wire, and ``cost`` what all of them cost. ``kind``
    is the index of the traffic's class, ``session`` the conversation; -1 for none.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.outcomes = ["answered"]
        self._ledger = ledger
        self._asked: list[tuple[float, int, int, int, int, bool]] = []
        self._ended: list[tuple[float, float, int, int]] = []
        self.close()

    def __len__(self) -> int:
        return len(self._asked)

    def begin(self, job: Job) -> int:
        """A new row; returns its number."""
        number = len(self._asked)
        self._asked.append(
            (job.at, job.prompt_tokens, job.completion_tokens, job.session, job.kind, job.streamed)
        )
        self._ended.append(_UNDER_WAY)
        self._ledger.calls.append(0)
        self._ledger.cost.append(0.0)
        return number

    def answered(self, number: int, latency: float, first_token: float, provider: int) -> None:
        """The request ended with an answer of this provider."""
        self._ended[number] = (latency, first_token, provider, ANSWERED)

    def failed(self, number: int, latency: float, error: str) -> None:
        """The request ended with an error of this class."""
        if error not in self.outcomes:
            self.outcomes.append(error)
        self._ended[number] = (latency, nan, -1, self.outcomes.index(error))

    def close(self) -> None:
        """Make columns of the rows, once all requests have ended."""
        begun, prompt, completion, session, kind, streamed = zip(*self._asked, strict=True) if self._asked else [()] * 6
        latency, first_token, provider, outcome = zip(*self._ended, strict=True) if self._ended else [()] * 4
        self.begun = array("d", begun)
        self.prompt_tokens = array("l", prompt)
        self.completion_tokens = array("l", completion)
        self.session = array("l", session)
        self.kind = array("b", kind)
        self.streamed = array("B", streamed)
        self.latency = array("d", latency)
        self.first_token = array("d", first_token)
        self.provider = array("h", provider)
        self.outcome = array("B", outcome)
        self.attempts = array("H", self._ledger.calls)
        self.cost = array("d", self._ledger.cost)


@dataclass(frozen=True, slots=True)
class Span:
    """An episode: what befell which provider, and when."""

    provider: str
    kind: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A breaker of the router changed its state."""

    at: float
    provider: str
    old: str
    new: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment: per provider, in the order of ``Run.providers``, calls served and calls queued there."""

    at: float
    busy: tuple[int, ...]
    queued: tuple[int, ...]


@dataclass(slots=True)
class Timeline:
    """What happened beside the requests. ``breakers`` are exact, or (see ``simulate``) as often as ``samples``."""

    episodes: list[Span] = field(default_factory=list)
    breakers: list[BreakerChange] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """One scenario under one strategy with one seed."""

    scenario: str
    strategy: str
    seed: int
    providers: tuple[str, ...]
    duration_s: float
    warm_up_s: float
    slo_s: float | None
    requests: Requests
    timeline: Timeline

    def summary(self) -> Summary:
        """The row of the table; see :func:`orchestrator.simulation.summary.summary`."""
        return summary(self)
