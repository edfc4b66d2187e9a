"""Every error this library raises, as one tree.

::

    OrchestratorError                     catch this and nothing escapes
    ├── ProviderError                     a call to a provider failed
    │   ├── AuthenticationError           401, 403: the key is refused
    │   ├── RateLimitError                429: come back later
    │   │   └── QuotaExceededError        money or quota is used up: waiting does not help
    │   ├── TimeoutError                  a limit passed: connect, first token, idle, attempt or total
    │   ├── ConnectionFailedError         no connection, or it broke before an answer
    │   ├── ServerError                   5xx
    │   │   └── OverloadedError           503, 529
    │   ├── MalformedResponseError        not JSON, no choices, HTML, a cut body, an empty answer
    │   ├── StreamInterruptedError        broken after the first piece; holds ``partial``
    │   ├── InvalidRequestError           400, 422: the request itself is wrong
    │   │   ├── ContextWindowExceededError   the request is too long for this model
    │   │   └── ContentFilteredError      refused by the provider's content policy
    │   └── ModelNotFoundError            404: no such model at this provider
    ├── CircuitOpenError                  not sent: the provider's breaker is open
    ├── CapacityError                     not sent: the provider is paused or at its own limit
    ├── AllProvidersFailedError           an ExceptionGroup of every attempt's error
    ├── NoProvidersError                  the router has nobody to ask
    └── RouterClosedError                 the router was closed

A class says, as class attributes, whose *fault* it is and what the router does about it (*retry* in place, *failover*
to another provider, what the *breaker* is told). The table in ``docs/errors.md`` is generated from these attributes.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from orchestrator.core.types import Attempt, Usage

__all__ = [
    "AllProvidersFailedError",
    "AuthenticationError",
    "CapacityError",
    "CircuitOpenError",
    "ConnectionFailedError",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "Fault",
    "InvalidRequestError",
    "MalformedResponseError",
    "ModelNotFoundError",
    "NoProvidersError",
    "OrchestratorError",
    "OverloadedError",
    "ProviderError",
    "QuotaExceededError",
    "RateLimitError",
    "Retry",
    "RouterClosedError",
    "ServerError",
    "StreamInterruptedError",
    "TimeoutError",
    "Verdict",
]


class Fault(Enum):
    """Who caused it."""

    CALLER = "caller"
    CREDENTIALS = "credentials"
    PROVIDER = "provider"
    NOBODY = "nobody"


class Retry(Enum):
    """Whether the same provider is asked again, and how soon."""

    NO = "no"
    ONCE = "once"
    BACKOFF = "backoff"
    AFTER = "after"


class Verdict(Enum):
    """What a breaker is told about a finished call."""

    SUCCESS = "success"
    FAILURE = "failure"
    OVERLOADED = "overloaded"  # a failure, maybe of one that is merely full
    NEUTRAL = "neutral"
    LIMITED = "limited"
    CREDENTIALS = "credentials"


class OrchestratorError(Exception):
    """Root of the tree.

    ``retry_after`` is in seconds from the moment of raising, ``None`` when unknown; ``attempts`` lists every call that
    was made upstream for the request, in order.
    """

    fault: ClassVar[Fault] = Fault.NOBODY
    retry: Retry = Retry.NO
    failover: ClassVar[bool] = False
    verdict: Verdict = Verdict.NEUTRAL
    recorded: bool = False  # an attempt ended with it: raised once more, it is another error

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        model: str | None = None,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.attempts: tuple[Attempt, ...] = tuple(attempts)

    @property
    def message(self) -> str:
        """The text alone, without the fields that ``str()`` adds."""
        return str(self.args[0])

    def __str__(self) -> str:
        where = f"{self.provider}: " if self.provider else ""
        known = [
            f"HTTP {self.status_code}" if self.status_code else "",
            self.code or "",
            f"retry after {self.retry_after:.3g} s" if self.retry_after is not None else "",
            f"request {self.request_id}" if self.request_id else "",
        ]
        details = ", ".join(part for part in known if part)
        text = self.message or type(self).__name__
        return f"{where}{text} ({details})" if details else f"{where}{text}"


class ProviderError(OrchestratorError):
    """A call to a provider failed; also what any foreign exception of a custom provider becomes (see ``__cause__``)."""

    fault = Fault.PROVIDER
    failover = True
    verdict = Verdict.FAILURE


class AuthenticationError(ProviderError):
    """The key is refused (401, 403). The breaker opens at once: every further call would be refused too."""

    fault = Fault.CREDENTIALS
    verdict = Verdict.CREDENTIALS


class RateLimitError(ProviderError):
    """Too many calls (429). The provider is paused until ``retry_after``; its breaker is not blamed."""

    fault = Fault.NOBODY
    retry = Retry.AFTER
    verdict = Verdict.LIMITED


class QuotaExceededError(RateLimitError):
    """The account's money or quota is used up (402, some 429): waiting does not help."""

    fault = Fault.CREDENTIALS
    retry = Retry.NO
    verdict = Verdict.CREDENTIALS


class TimeoutError(ProviderError, builtins.TimeoutError):
    """A limit passed; ``phase`` says which one: connect, first_token, idle, attempt, total (of the whole request)."""

    def __init__(self, message: str = "", *, phase: str = "attempt", **fields: object) -> None:
        super().__init__(message or f"{phase} timeout", **fields)  # type: ignore[arg-type]  # checked by OrchestratorError
        self.phase = phase


class ConnectionFailedError(ProviderError, builtins.ConnectionError):
    """No connection could be made, or it broke before an answer."""

    retry = Retry.ONCE


class ServerError(ProviderError):
    """The provider failed (5xx)."""

    retry = Retry.BACKOFF


class OverloadedError(ServerError):
    """The provider says it is overloaded (503, 529)."""

    verdict = Verdict.OVERLOADED


class MalformedResponseError(ProviderError):
    """A success status with something that is no answer: bad JSON, no choices, HTML, a cut body, an empty text."""

    retry = Retry.ONCE


class StreamInterruptedError(ProviderError):
    """The stream broke after its first piece; ``partial`` is the text received, ``__cause__`` what broke it."""

    failover = False

    def __init__(self, message: str = "", *, partial: str = "", usage: Usage | None = None, **fields: object) -> None:
        super().__init__(message or "stream interrupted", **fields)  # type: ignore[arg-type]  # checked by OrchestratorError
        self.partial = partial
        self.usage = usage


class InvalidRequestError(ProviderError):
    """The request itself is wrong (400, 422): every provider would refuse it, so none other is asked."""

    fault = Fault.CALLER
    failover = False
    verdict = Verdict.NEUTRAL


class ContextWindowExceededError(InvalidRequestError):
    """Too long for this model (also 413); fails over to a provider with a larger, or an unknown, context window."""

    failover = True


class ContentFilteredError(InvalidRequestError):
    """Refused by the provider's content policy; fails over only if the router was told to.

    ``partial`` is the text of a stream that was filtered after its first piece.
    """

    partial: str = ""


class ModelNotFoundError(ProviderError):
    """No such model at this provider (404): its name, or the account's right to it, is wrong."""

    fault = Fault.CREDENTIALS


class CircuitOpenError(OrchestratorError):
    """Not sent: the breaker is open. ``retry_after`` says when it may be tried again."""

    failover = True


class CapacityError(OrchestratorError):
    """Not sent: the provider is paused by its own Retry-After, or at a limit set in its configuration."""

    failover = True


class NoProvidersError(OrchestratorError, LookupError):
    """The router has no provider, or none is enabled."""


class RouterClosedError(OrchestratorError, RuntimeError):
    """The router was closed; make a new one."""


class AllProvidersFailedError(OrchestratorError, ExceptionGroup[OrchestratorError]):
    """Every provider failed, and not all in the same way; ``exceptions`` holds one error per attempt, in order."""

    def __new__(  # noqa: D102  # described by the class
        cls, message: str, errors: Sequence[OrchestratorError], **_: object  # the fields are __init__'s
    ) -> Self:
        return ExceptionGroup.__new__(cls, message, list(errors))

    def __init__(
        self, message: str, _errors: Sequence[OrchestratorError], *, retry_after: float | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(message, retry_after=retry_after, attempts=attempts)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, list(self.exceptions)), self.__dict__

    def __str__(self) -> str:
        return f"{self.message}: " + "; ".join(f"{type(e).__name__} {e}" for e in self.exceptions)

    def derive(self, excs: Sequence[OrchestratorError]) -> AllProvidersFailedError:  # type: ignore[override]
        """The same group with other errors, as ``except*`` and ``split`` need it."""
        return AllProvidersFailedError(self.message, excs, retry_after=self.retry_after, attempts=self.attempts)
