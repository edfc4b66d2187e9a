"""Texts that must not be shown: what tools print of a traceback's locals is their ``repr``."""

from __future__ import annotations

__all__ = ["Secret", "SecretBytes", "SecretHeaders"]


class Secret(str):
    """A key or token."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class SecretBytes(bytes):
    """A body, which holds a prompt or an answer."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class SecretHeaders(dict[str, str]):
    """Headers, some of which hold a key."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} headers: {', '.join(self)}>"
