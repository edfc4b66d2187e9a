"""From answers and errors to lines for people and JSON for programs. What a provider wrote is never taken as markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from orchestrator.core.errors import AllProvidersFailedError, OrchestratorError, StreamInterruptedError, TimeoutError
from orchestrator.core.types import Attempt, Completion, Usage

if TYPE_CHECKING:
    from orchestrator.cli._providers import Found

__all__ = [
    "answer_json", "console", "error_json", "error_lines", "harmless", "percent", "seconds",
    "summary_line", "survey_lines",
]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MESSAGE = 200  # characters of an attempt's message
_CUT = {"length": "cut at the token limit", "content_filter": "cut by the content filter", "tool_calls": "tool calls"}


def console(*, stderr: bool = False, plain: bool = False) -> Console:
    """A console that colours nothing by itself, and leaves lines whole where nobody looks at them."""
    made = Console(stderr=stderr, color_system=None if plain else "auto", highlight=False, markup=False)
    made.soft_wrap = not made.is_terminal
    return made


def harmless(text: str) -> str:
    """``text`` without the control characters by which it could steer a terminal."""
    return _CONTROL.sub("", text)


def seconds(value: float) -> str:
    """A duration, to three digits at most."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def percent(share: float) -> str:
    """A share of 1, right-aligned."""
    return f"{share * 100:3.0f} %"


def summary_line(answer: Completion) -> Text:
    """Who answered, how fast, with how many tokens, and after which failures."""
    first = answer.time_to_first_token
    parts = [
        Text(harmless(answer.model or "")),
        Text(f"first token {seconds(first)}" if first is not None else ""),
        Text(f"total {seconds(answer.latency)}"),
        Text(_tokens(answer.usage)),
        Text(f"${answer.cost:.6f}" if answer.cost is not None else ""),
        Text(_CUT.get(answer.finish_reason, ""), "yellow"),
        _attempts(answer.attempts),
    ]
    line = Text().append(answer.provider or "", "bold")
    for part in filter(None, parts):
        line.append(" · ", "dim").append_text(part)
    return line


def _tokens(usage: Usage | None) -> str:
    if usage is None:
        return "tokens not told"
    return f"{usage.total_tokens} tokens ({usage.prompt_tokens} in, {usage.completion_tokens} out)"


def _attempts(attempts: Sequence[Attempt]) -> Text:
    text = Text("1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts")
    if len(attempts) < 2:
        return text
    text.append(": ")
    runs = [(step, len(list(same))) for step, same in groupby(map(_step, attempts))]
    for index, ((name, failure), times) in enumerate(runs):
        text.append(" → " if index else "").append(name)
        if failure:
            text.append(f": {failure}" + (f" ×{times}" if times > 1 else ""), "red")
    return text


def _step(attempt: Attempt) -> tuple[str, str]:
    if attempt.error is not None:
        return attempt.provider, _failure(attempt.error)
    return attempt.provider, "too late" if attempt.lost else ""


def _failure(error: OrchestratorError) -> str:
    """The class, and the one detail that tells most."""
    detail = f" HTTP {error.status_code}" if error.status_code else ""
    if isinstance(error, TimeoutError):
        detail = f" ({error.phase.replace('_', ' ')})"
    return type(error).__name__ + detail


def error_lines(error: OrchestratorError) -> Iterator[Text]:
    """One line that says it all, and one for each attempt where there was more than one."""
    told = error.message if isinstance(error, AllProvidersFailedError) else str(error)
    line = f"{type(error).__name__}: {harmless(told)}"
    if error.retry_after is not None and "retry after" not in told:
        line += f" (retry after {error.retry_after:.3g} s)"
    yield Text(line, "red")
    if len(error.attempts) < 2:
        return
    width = max(len(attempt.provider) for attempt in error.attempts)
    for attempt in error.attempts:
        yield Text(f"  {attempt.number}. {attempt.provider:<{width}}  {_ending(attempt)}")


def _ending(attempt: Attempt) -> str:
    if attempt.error is None:
        return f"stopped after {seconds(attempt.duration)}"
    message = " ".join(harmless(attempt.error.message).split())
    message = message if len(message) <= _MESSAGE else f"{message[:_MESSAGE]}…"
    return f"{_failure(attempt.error)} after {seconds(attempt.duration)}" + (f": {message}" if message else "")


def survey_lines(found: Sequence[Found]) -> Iterator[Text]:
    """One line per service: configured or not, by which variables, and the model or what is wrong."""
    width = max(len(item.service.name) for item in found)
    yield Text(f"{'provider':<{width}}  state       configured by", "dim")
    for item in found:
        state, style, detail = "not set", "dim", ""
        if item.provider is not None:
            state, style, detail = "ready", "green", item.provider.config.model or item.service.default_model or ""
        elif item.problem is not None:
            state, style, detail = "incomplete", "yellow", item.problem
        needs = " + ".join(item.service.needs)
        yield Text.assemble(
            (f"{item.service.name:<{width}}", "bold"), "  ", (f"{state:<10}", style), "  ",
            f"{needs:<33}  {harmless(detail)}" if detail else needs,
        )


def answer_json(answer: Completion) -> dict[str, Any]:
    """The answer and all that is known about it; times in seconds."""
    return {
        "text": answer.text,
        "provider": answer.provider,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "time_to_first_token": answer.time_to_first_token,
        "latency": answer.latency,
        "usage": asdict(answer.usage) if answer.usage is not None else None,
        "cost": answer.cost,
        "request_id": answer.request_id,
        "attempts": [_attempt_json(attempt) for attempt in answer.attempts],
    }


def error_json(error: OrchestratorError) -> dict[str, Any]:
    """The error with its fields; ``partial`` is the text of a stream that broke."""
    shown: dict[str, Any] = {"error": _fields(error)}
    if isinstance(error, StreamInterruptedError):
        shown["partial"] = error.partial
    shown["attempts"] = [_attempt_json(attempt) for attempt in error.attempts]
    return shown


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "model": attempt.model,
        "duration": attempt.duration,
        "time_to_first_token": attempt.time_to_first_token,
        "error": _fields(attempt.error) if attempt.error is not None else None,
    }


def _fields(error: OrchestratorError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "provider": error.provider,
        "status_code": error.status_code,
        "code": error.code,
        "retry_after": error.retry_after,
        "request_id": error.request_id,
    }
