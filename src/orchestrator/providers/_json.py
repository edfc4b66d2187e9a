"""JSON from a provider: bounded in depth and number of values, whatever its numbers and bytes look like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from json.scanner import make_scanner
from typing import TYPE_CHECKING, Any

from orchestrator import core

if TYPE_CHECKING:
    from orchestrator.core.config import WireLimits

__all__ = ["UnreadableError", "read_json", "read_quickly"]

# What json.loads comes down to, without what it looks after on the way: a stream has thousands of events.
_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(json.JSONDecoder())  # type: ignore[arg-type]  # typeshed
_OF_TEXT: Any = "[", "{", ","
_OF_BYTES: Any = b"[", b"{", b","
_OPENING = (b"{", b"[")
_quick: Callable[[str | bytes], Any] | None = None


class UnreadableError(ValueError):
    """Says what is wrong with a JSON text, and shows none of it."""


def read_json(data: str | bytes, limits: WireLimits | None = None) -> Any:  # noqa: ANN401  # JSON
    """The value that ``data`` is; :class:`UnreadableError` when it is none, or goes beyond ``depth`` or ``values``."""
    if limits is None:
        limits = core.config.DEFAULT_WIRE_LIMITS
    lists, objects, commas = _OF_TEXT if isinstance(data, str) else _OF_BYTES
    size = len(data)
    if size > limits.values and sum(map(data.count, (lists, objects, commas))) >= limits.values:
        problem = f"holds more than {limits.values} JSON values"
    else:
        try:
            value = None if _quick is None else _quick(data)
            if value is None:
                value = _read(data) if isinstance(data, str) else _read_bytes(data)
        except RecursionError:
            problem = f"is nested deeper than {limits.depth} levels"
        except ValueError:  # of an integer too: Python reads 4300 digits at most
            problem = "is not JSON"
        else:
            # So many brackets are necessary for the depth, and counting them costs next to nothing.
            shallow = size <= 2 * limits.depth or data.count(lists) + data.count(objects) <= limits.depth
            if shallow or not _deeper(value, limits.depth):
                return value
            problem = f"is nested deeper than {limits.depth} levels"
            del value
    del data
    # Not in an except clause: a JSONDecodeError holds the whole text, and whoever keeps the error would keep that.
    raise UnreadableError(problem)


def read_quickly(decode: Callable[[str | bytes], Any]) -> None:
    """Ask ``decode`` first from now on: it returns the value that json would, or None where json is to read it."""
    global _quick  # brought by whoever has loaded it: that takes as long as to load all of this package
    _quick = decode


def _read(text: str) -> Any:  # noqa: ANN401  # JSON
    text = text.strip()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    if end != len(text):
        raise ValueError
    return value


def _read_bytes(data: bytes) -> Any:  # noqa: ANN401  # JSON
    if data[:1] not in _OPENING or data[1:2] == b"\0":  # blanks or a byte order mark first, or UTF-16 or UTF-32
        return json.loads(data)
    return _read(data.decode("utf-8", "surrogatepass"))  # as json.loads would


def _deeper(value: object, depth: int) -> bool:
    """Whether ``value`` has more levels of lists and objects than ``depth``; level by level, without recursion."""
    level = [value]
    for _ in range(depth):
        level = [child for one in level for child in _children(one) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
