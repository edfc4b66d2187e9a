"""What may leave the process in a log line or a span: no key, and no text of a provider that could quote a prompt."""

from __future__ import annotations

import re

from orchestrator.core.errors import (
    AllProvidersFailedError,
    CapacityError,
    CircuitOpenError,
    ConnectionFailedError,
    NoProvidersError,
    OrchestratorError,
    RouterClosedError,
    TimeoutError,
)

__all__ = ["describe", "redact"]

_LONGEST = 300  # characters of an error's text that are worth a log line

_SECRET = re.compile(
    r"""
    (?P<label>
        \b (?: bearer | basic | api-key ) \s+ (?= \S{16} )           # Authorization: Bearer …
      | \b (?: [\w-]* (?: api[-_ ]?key | access[-_]?token | auth[-_]?token | iam[-_]?token | secret | password
                        | credentials ) | authorization | token | key )
        (?: \s provided )? ["']? \s* [:=] \s* ["']? (?! (?: bearer | basic | api-key ) \s )
      | ://                                                          # https://user:password@host
    )
    (?P<value> (?<= :// ) [^\s/@"']+ (?= @ ) | (?<! :// ) [^\s"',;&)}\]]{6,} )
  | \b (?:
        (?: sk | rk | pk | gsk | xai | pplx | hf | fw | r8 | csk | nvapi ) [-_] [A-Za-z0-9_-]{12,}
      | AIza [A-Za-z0-9_-]{20,} | AQVN [A-Za-z0-9_-]{16,} | AKIA [A-Z0-9]{12,}
      | t1\.[A-Za-z0-9_=-]+ \. [A-Za-z0-9_=-]{12,}                   # Yandex IAM
      | eyJ [A-Za-z0-9_-]{8,} \. [A-Za-z0-9_-]{8,} \. [A-Za-z0-9_-]+   # JSON web token
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)

# Their texts come from clocks, sockets and this library, never from the body of a response.
_OUR_OWN_WORDS = (
    AllProvidersFailedError, CapacityError, CircuitOpenError, ConnectionFailedError, NoProvidersError,
    RouterClosedError, TimeoutError,
)


def redact(text: str) -> str:
    """``text`` with whatever looks like a key, a token or a password replaced by ``***``."""
    return _SECRET.sub(lambda match: f"{match['label'] or ''}***", text)


def describe(error: BaseException, *, text: bool = False) -> str:
    """One line about an error: its class and what is known about it.

    A provider's own message may quote the prompt, so it is left out unless ``text`` asks for it.
    """
    name = type(error).__name__
    if not isinstance(error, OrchestratorError):
        return name
    known = [
        f"HTTP {error.status_code}" if error.status_code else "",
        redact(error.code)[:_LONGEST] if error.code else "",
        f"{error.phase} limit" if isinstance(error, TimeoutError) else "",
        f"retry after {error.retry_after:.3g} s" if error.retry_after is not None else "",
        f"request {error.request_id}" if error.request_id else "",
    ]
    details = ", ".join(part for part in known if part)
    line = f"{name} ({details})" if details else name
    if error.message and (text or isinstance(error, _OUR_OWN_WORDS)):
        line = f"{line}: {redact(' '.join(error.message.split()))[:_LONGEST]}"
    return line
