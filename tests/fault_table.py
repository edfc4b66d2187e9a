"""What each fault of a simulated provider shall come to, as docs/errors.md has it: a table to test by."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from orchestrator import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    OrchestratorError,
    OverloadedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.testing import faults as f
from orchestrator.testing._exchange import Piece, Reply
from orchestrator.testing._fault import BodyFault

ANSWER = "Один два три"
VENDORS = ("openai", "gigachat", "yandex")
SSE = ("openai", "gigachat")


@dataclass(frozen=True)
class Whole:
    """The exact answer, at the first attempt."""

    text: str = ANSWER


@dataclass(frozen=True)
class Broken:
    """A stream that breaks when ``partial`` was handed out, because of ``cause``."""

    partial: str
    cause: type[OrchestratorError]


@dataclass(frozen=True)
class Filtered:
    """A ContentFilteredError when ``partial`` was handed out."""

    partial: str


End = Whole | Broken | Filtered | type[OrchestratorError]  # a class: no piece was handed out


class Both(f.Fault):
    """One fault, then another."""

    def __init__(self, first: f.Fault, second: f.Fault) -> None:
        self.first, self.second = first, second

    async def __call__(self, reply: Reply) -> Reply:
        return await self.second(await self.first(reply))


@dataclass(frozen=True)
class Replaced(BodyFault):
    """In each piece of the body the first ``old`` is replaced."""

    old: bytes = b"{"
    new: bytes = b"{"

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield Piece(piece.kind, piece.data.replace(self.old, self.new, 1))


@dataclass(frozen=True)
class Encoded(BodyFault):
    """Not UTF-8."""

    charset: str

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield Piece(piece.kind, piece.data.decode().encode(self.charset))


def field_first(text: str) -> Replaced:
    """Each JSON object begins with this field."""
    return Replaced(b"{", f"{{{text},".encode())


def called(content_type: str) -> f.Headers:
    """The content type is said to be another."""
    return f.Headers({"content-type": content_type})


@dataclass(frozen=True)
class Case:
    """``stream`` None: as ``plain``. ``but`` holds what differs for a vendor: its plain end and its stream's.

    ``wait``: the Retry-After it tells; ``renewed``: one refusal is repaired with a new token, unseen by the router.
    """

    name: str
    fault: f.Fault
    plain: End
    stream: End | None = None
    but: Mapping[str, tuple[End, End]] = field(default_factory=dict)
    vendors: Sequence[str] = VENDORS
    wait: float | None = None
    renewed: Sequence[str] = ()

    def end(self, vendor: str, mode: str) -> End:
        """What a request comes to that meets nothing else; of a ``hidden`` stream its caller has seen nothing."""
        plain, stream = self.but.get(vendor, (self.plain, self.stream or self.plain))
        if mode == "hidden" and isinstance(stream, Broken):
            return stream.cause
        if mode == "hidden" and isinstance(stream, Filtered):
            return ContentFilteredError
        return plain if mode == "plain" else stream


def status(code: int, error: type[OrchestratorError], **rest: object) -> Case:
    """A status with the vendor's own error body."""
    return Case(f"status {code}", f.Status(code), error, **rest)


def limited(name: str, fault: f.RateLimited) -> Case:
    """A 429 that tells its wait."""
    return Case(f"429, {name}", fault, RateLimitError, wait=fault.retry_after)


def body(name: str, content: str) -> Case:
    """A success status with something that is no answer."""
    return Case(f"body: {name}", f.Body(content), MalformedResponseError)


def odd(name: str, fault: f.Fault, **rest: object) -> Case:
    """Something that takes nothing away from the answer."""
    return Case(name, fault, Whole(), **rest)


def after_one(name: str, fault: f.Fault, cause: type[OrchestratorError]) -> Case:
    """A break after the first piece; of a plain answer, half is lost."""
    return Case(name, fault, cause, Broken("Один ", cause))


NO_FINISH = Whole(), Broken(ANSWER, MalformedResponseError)

REFUSALS = [
    status(307, ProviderError), status(400, InvalidRequestError),
    status(401, AuthenticationError, renewed=["gigachat"]),
    status(402, QuotaExceededError), status(403, AuthenticationError), status(404, ModelNotFoundError),
    status(408, TimeoutError), status(409, ServerError), status(413, ContextWindowExceededError),
    status(418, ProviderError), status(422, InvalidRequestError), status(500, ServerError), status(502, ServerError),
    status(503, OverloadedError), status(504, TimeoutError), status(529, OverloadedError),
    Case("503, HTML of a proxy", f.Status(503, body="<html><title>Down</title></html>"), OverloadedError),
    Case("500, empty body", f.Status(500, body=""), ServerError),
    Case("500, broken JSON", f.Status(500, body='{"error": '), ServerError),
    Case("500, cut body", Both(f.Status(500), f.Cut()), ServerError),
    Case("400, reset body", Both(f.Status(400), f.Cut(how="reset")), InvalidRequestError),
    Case("403, no HTTP in the body", Both(f.Status(403), f.NoHttp(0)), AuthenticationError),
    Case("503, endless body", Both(f.Status(503), f.Endless()), OverloadedError),
    Case("500, silent body", Both(f.Status(500), f.Hang(1)), TimeoutError),
    Case("503 that tells a wait", f.Status(503, headers={"retry-after": "0.2"}), OverloadedError),
    Case("429, quota", f.Status(429, body='{"error": {"code": "insufficient_quota"}}'), QuotaExceededError),
    Case("403, billing", f.Status(403, "The billing account is not active"), QuotaExceededError),
    Case("400, context", f.Status(400, "the prompt is too long"), ContextWindowExceededError),
    Case("400, filter", f.Status(400, body='{"error": {"code": "content_filter"}}'), ContentFilteredError),
    Case("429, no wait told", f.RateLimited(None), RateLimitError),
    limited("0.1 s", f.RateLimited(0.1)), limited("2 s", f.RateLimited(2)), limited("an hour", f.RateLimited(3600)),
    limited("retry-after-ms", f.RateLimited(2, "milliseconds")), limited("a date", f.RateLimited(30, "date")),
    limited("x-ratelimit-reset", f.RateLimited(2, "reset")), limited("epoch", f.RateLimited(30, "epoch")),
    limited("RetryInfo", f.RateLimited(2, "details")), limited("prose", f.RateLimited(2, "prose")),
]

SILENCE = [
    Case("hangs before the headers", f.Hang(), TimeoutError),
    Case("hangs before the first piece", f.Hang(0), TimeoutError),
    after_one("hangs after the first piece", f.Hang(1), TimeoutError),
    Case("keep-alive only", f.KeepAliveOnly(), TimeoutError),
    after_one("keep-alive only after the first piece", f.KeepAliveOnly(1), TimeoutError),
    Case("a byte per second", f.Split(1, delay=1), TimeoutError),
    Case("25 s late", f.Latency(25), Whole(), TimeoutError),
    Case("70 s late", f.Latency(70), TimeoutError),
    Case("25 s between tokens", f.Altered(tokens_per_second=0.04), Whole(), Broken("Один ", TimeoutError)),
]

BROKEN = [
    Case("closed before the headers", f.Disconnect(), ConnectionFailedError),
    Case("reset before the headers", f.Disconnect(reset=True), ConnectionFailedError),
    Case("no HTTP", f.NoHttp(), ConnectionFailedError),
    Case("no HTTP, in the body", f.NoHttp(0), MalformedResponseError),
    after_one("no HTTP, after the first piece", f.NoHttp(1), MalformedResponseError),
    Case("short body", f.ShortBody(), MalformedResponseError, Whole()),
]
for _how in ("close", "reset", "end"):
    BROKEN += [
        Case(f"cut ({_how}) before the first piece", f.Cut(0, _how), MalformedResponseError),
        after_one(f"cut ({_how}) after the first piece", f.Cut(1, _how), MalformedResponseError),
        Case(f"cut ({_how}) after the second piece", f.Cut(2, _how), MalformedResponseError,
             Broken("Один два ", MalformedResponseError)),
        Case(f"cut ({_how}) before the finish", f.Cut(99, _how), MalformedResponseError,
             Broken(ANSWER, MalformedResponseError)),
    ]

FALSE = [
    Case("malformed JSON", f.MALFORMED_JSON, MalformedResponseError), Case("HTML", f.HTML, MalformedResponseError),
    Case("null", f.NULL, MalformedResponseError), body("nothing", ""), body("{}", "{}"), body("list", "[]"),
    body("text", '"hello"'), body("number", "1e999"), body("no choices", '{"choices": [], "result": {}}'),
    body("choices is a text", '{"choices": "hello", "result": {"alternatives": "hello"}}'),
    body("null everywhere", '{"choices": [null], "result": {"alternatives": [null]}}'),
    body("deep", "[" * 100_000),
    Case("empty answer", f.EMPTY_ANSWER, MalformedResponseError),
    Case("no text pieces", f.Drop("text"), Whole(), MalformedResponseError, but={"yandex": (Whole(), Whole())}),
    Case("no finish reason", f.Drop("finish"), Whole(), but={"gigachat": NO_FINISH, "yandex": NO_FINISH}),
    Case("filtered", f.Altered(finish="content_filter"), ContentFilteredError, Filtered(ANSWER)),
    Case("filtered at once", f.Altered("", finish="content_filter"), ContentFilteredError),
    Case("error inside", f.ErrorInside(0), ServerError), after_one("error inside, late", f.ErrorInside(1), ServerError),
    Case("429 inside", f.ErrorInside(0, 429), RateLimitError),
    Case("503 inside", f.ErrorInside(0, 503), OverloadedError),
    after_one("429 inside, late", f.ErrorInside(1, 429), RateLimitError),
    Case("last line rewrites", f.Altered(last="Раз два три"), *NO_FINISH, vendors=["yandex"]),
    Case("last line goes on", f.Altered(last=f"{ANSWER} четыре"), Whole(), Whole(f"{ANSWER} четыре"),
         vendors=["yandex"]),
    Case("an integer of 5000 digits", field_first(f'"n": {"1" * 5000}'), MalformedResponseError),
    Case("a raw null byte", field_first('"n": "\0"'), MalformedResponseError),
    Case("a field nested deep", field_first(f'"n": {"[" * 200 + "]" * 200}'), MalformedResponseError),
    Case("a field nested abysmally", field_first(f'"n": {"[" * 50_000 + "]" * 50_000}'), MalformedResponseError),
    Case("a header of 70 KB", f.Headers({"x-filler": "x" * 70_000}), MalformedResponseError),
    Case("a header of 1 MB", f.Headers({"x-filler": "x" * 1_000_000}), MalformedResponseError),
    Case("5000 headers", f.Headers({f"x-filler-{n}": "" for n in range(5000)}), MalformedResponseError),
    Case("UTF-16", Encoded("utf-16"), Whole(), MalformedResponseError),
    Case("a charset of one byte", Encoded("cp1251"), MalformedResponseError),
    Case("endless", f.Endless(0, chunk=2**20), MalformedResponseError),
    after_one("endless after the first piece", f.Endless(1, chunk=2**20), MalformedResponseError),
    Case("zip bomb", f.Bomb(40 * 2**20), MalformedResponseError, vendors=["openai"]),
]

ODDITIES = [
    odd("bytes one by one", f.Split(1)), odd("chunks of 7 bytes", f.Split(7)), odd("CRLF", f.Crlf()),
    odd("torn CRLF", Both(f.Crlf(), f.Split(1))),
    odd("byte order mark", f.Before()), odd("blank lines before", f.Before(b"\n\n\n")), odd("comments", f.Comments()),
    odd("empty events", f.Comments(b"data: \n\n"), vendors=SSE),
    odd("empty objects", f.Comments(b"data: {}\n\n"), vendors=SSE),
    odd("pings", f.Comments(b"event: ping\nid: 7\nretry: 10\n\n"), vendors=SSE),
    odd("finish twice", f.Repeat("finish")), odd("usage twice", f.Repeat("usage")), odd("end twice", f.Repeat("end")),
    odd("opening twice", f.Repeat("open")), odd("no end marker", f.Drop("end")), odd("no usage event", f.Drop("usage")),
    odd("no usage", f.NO_USAGE), odd("5 s late", f.Latency(5)), odd("slow", f.Altered(tokens_per_second=0.1)),
    odd("cut at its limit", f.Altered(finish="length")), odd("tokens expire meanwhile", f.TokensExpire()),
    odd("rate limits told", f.Headers({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s",
                                       "x-ratelimit-limit-tokens": "none", "retry-after": "30"})),
    odd("another content type", called("application/octet-stream")), odd("called JSON", called("application/json")),
    odd("called SSE", called("text/event-stream")), odd("called text", called("text/plain")),
    odd("called HTML", called("text/html")), odd("no content type", called("")),
    odd("called Latin-1", called("application/json; charset=latin-1")),
    odd("called UTF-16", called("text/event-stream; charset=utf-16")),
    odd("an unknown charset", called("application/json; charset=x-unknown")),
    odd("a field twice", field_first('"x": 1, "x": [2]')),
    odd("a field nested", field_first(f'"n": {"[" * 90 + "]" * 90}')),
    odd("numbers beyond", field_first('"a": 1e999, "b": -1e999, "c": NaN, "d": Infinity, "e": 1e-999')),
    odd("a large integer", field_first(f'"n": {"1" * 4000}')), odd("a null character", field_first('"n": "\\u0000"')),
    odd("half a pair in a field", field_first('"n": "\\ud83d", "m": "\\ude00"')),
    odd("300 headers", f.Headers({f"x-filler-{n}": "x" for n in range(300)})),
    odd("many blank lines before", f.Before(b"\r\n" * 10_000)),
]

CASES = [*REFUSALS, *SILENCE, *BROKEN, *FALSE, *ODDITIES]
