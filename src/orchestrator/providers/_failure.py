"""Reads any error body, whatever its shape, into one flat record, and keeps keys out of what is shown of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from orchestrator.core.surrogates import whole
from orchestrator.providers._json import UnreadableError, read_json

__all__ = ["EMPTY", "Failure", "clean", "read_body", "read_payload"]

EMPTY: Mapping[str, str] = {}

_SHOWN = 500  # characters of a provider's message
_READ = 64 * 1024  # bytes of an error body that are looked at
_GRPC = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 12: 501, 13: 500, 14: 503, 16: 401}
_TEXT_KEYS = ("message", "error", "detail", "details", "msg", "error_description")
_KEY_LIKE = (
    r"\b(?:sk|gsk|xai|tgp|hf)[-_][\w*.…-]{3,}"  # OpenAI and its imitators, masked ones too
    r"|\bAQVN[\w-]{4,}|\bt1\.[\w.-]{6,}"  # Yandex API key, IAM token
    r"|\beyJ[\w-]{6,}(?:\.[\w-]+)*"  # JWT
    r"|(?<=//)[^/@\s]+(?=@)"  # user and password of a URL
    r"|(?<=earer )(?=\S*\d)[\w.~+/*=-]{8,}|(?<=asic )(?=\S*\d)[\w.~+/*=-]{8,}"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a provider said: lower-case ``code`` and ``kind`` ("" when absent), ``error`` the JSON object they stood in.

    ``status`` is the HTTP status, or the one the body tells when the error came within a success; None if neither.
    """

    status: int | None
    code: str = ""
    kind: str = ""
    message: str = ""
    error: Mapping[str, object] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """Anthropic's code within the details."""
        details = self.error.get("details")
        return _word(details.get("error_code")) if isinstance(details, Mapping) else ""

    @property
    def metadata(self) -> Mapping[str, object]:
        """OpenRouter's account of what happened behind it."""
        metadata = self.error.get("metadata")
        return metadata if isinstance(metadata, Mapping) else EMPTY


def read_body(status: int, body: bytes) -> Failure:
    """The failure in the body of an error status: JSON of any shape, HTML, text, nothing."""
    text = body[:_READ].decode("utf-8-sig", errors="replace").strip()
    if text.startswith(("{", "[", '"')):
        try:
            payload = read_json(text)
        except UnreadableError:
            payload = text
        return read_payload(payload, status)
    if text.startswith("<"):
        title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
        return Failure(status, message=f"{title.group(1).strip() if title else _phrase(status)} (an HTML page)")
    return Failure(status, message=text or _phrase(status))


def read_payload(payload: object, status: int | None = None) -> Failure:
    """The failure in a JSON value; without a ``status``, the one it tells itself."""
    if isinstance(payload, list) and payload and isinstance(payload[0], Mapping):
        payload = payload[0]
    if not isinstance(payload, Mapping):
        return Failure(status, message=payload if isinstance(payload, str) else _phrase(status))
    inner = payload.get("error")
    error = inner if isinstance(inner, Mapping) else payload
    return Failure(
        status or _told_status(error) or _told_status(payload),
        _word(error.get("code")), _word(error.get("type")), _message(error) or _phrase(status), error,
    )


def clean(text: str, secrets: Iterable[str | None] = ()) -> str:
    """``text`` in one line of bounded length, without ``secrets`` and whatever else looks like a key."""
    text = " ".join(whole(text[: 8 * _SHOWN]).split())
    for secret in secrets:
        if secret and len(secret) >= 4:  # in any case: a code is put into lower case
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
    text = re.sub(_KEY_LIKE, "***", text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _message(error: Mapping[str, object]) -> str:
    message = _text(error)
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        with suppress(UnreadableError):
            raw = read_json(raw)
    cause = _text(raw)
    return f"{message}: {cause}" if message and cause else message or cause


def _text(value: object, depth: int = 0) -> str:
    if isinstance(value, str):
        return value.strip()
    if depth > 4:
        return ""
    if isinstance(value, Mapping):
        text = next((text for key in _TEXT_KEYS if (text := _text(value.get(key), depth + 1))), "")
        place = value.get("loc")
        return f"{'.'.join(map(str, place[:8]))}: {text}" if text and isinstance(place, list) else text
    if isinstance(value, list):
        return "; ".join(text for item in value[:8] if (text := _text(item, depth + 1)))
    return ""


def _word(value: object) -> str:
    if isinstance(value, str):
        return value.strip().lower()[:100]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e9 else ""


def _told_status(error: Mapping[str, object]) -> int | None:
    for key in ("httpCode", "status", "code", "status_code", "statusCode"):
        word = _word(error.get(key))
        if word.isdecimal() and 400 <= int(word) < 600:
            return int(word)
    grpc = _word(error.get("grpcCode", error.get("code")))
    return _GRPC.get(int(grpc)) if grpc.isdecimal() else None


def _phrase(status: int | None) -> str:
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return "no error message"
