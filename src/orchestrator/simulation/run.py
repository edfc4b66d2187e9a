"""What a run has brought: one row per request in columns, and the timeline."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import nan

from orchestrator.simulation.summary import Summary, summary
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import Ledger

__all__ = ["ANSWERED", "BreakerChange", "Requests", "Run", "Sample", "Span", "Timeline"]

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
        self._rows: list[tuple[int, float, int, int, int, int, bool, float, float, int, int]] = []
        self.close()

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, job: Job) -> None:
        """Give the request its number: that of its row."""
        ledger = self._ledger
        job.number = len(ledger.calls)
        ledger.calls.append(0)
        ledger.cost.append(0.0)

    def ended(
        self, job: Job, latency: float, first_token: float = nan, provider: int = -1, outcome: int = ANSWERED
    ) -> None:
        """The request ended, with an answer of this provider unless ``outcome`` says otherwise."""
        self._rows.append((
            job.number, job.at, job.prompt_tokens, job.completion_tokens, job.session, job.kind, job.streamed,
            latency, first_token, provider, outcome,
        ))

    def failed(self, job: Job, latency: float, error: str) -> None:
        """The request ended with an error of this class."""
        if error not in self.outcomes:
            self.outcomes.append(error)
        self.ended(job, latency, outcome=self.outcomes.index(error))

    def close(self) -> None:
        """Make columns of the rows, in the order of their numbers, once all requests have ended."""
        self._rows.sort()
        columns = zip(*self._rows, strict=True) if self._rows else [()] * 11
        _, begun, prompt, completion, session, kind, streamed, latency, first_token, provider, outcome = columns
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
