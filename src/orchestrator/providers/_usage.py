"""What a stream that is interrupted was known to have used: carried out by the error that ends it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from orchestrator.core.types import Usage

__all__ = ["carry_usage"]


class _Decoder(Protocol):
    @property
    def usage(self) -> Usage | None: ...


def carry_usage(
    decoder: _Decoder,
) -> Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]:
    """An exit callback of a stream: whatever ends it early, a cancellation too, gets ``usage`` as an attribute."""

    def carry(
        _kind: type[BaseException] | None, exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if exc is not None and decoder.usage is not None:
            exc.usage = decoder.usage  # type: ignore[attr-defined]  # errors have it, CancelledError gets it

    return carry
