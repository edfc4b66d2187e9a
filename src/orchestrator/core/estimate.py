"""How many tokens a call may take, guessed before it; afterwards the provider's own count replaces the guess."""

from __future__ import annotations

from orchestrator.core.types import Message, Request

__all__ = ["completion_tokens", "prompt_tokens"]

BYTES = 4  # of UTF-8 per token: see `prompt_tokens`
PER_MESSAGE = 4  # tokens that frame one message (OpenAI's cookbook: 3 or 4)
PER_IMAGE = 765  # tokens of a 1024 x 1024 image at OpenAI
COMPLETION = 256  # tokens, when nothing is known


def prompt_tokens(request: Request) -> int:
    """About the tokens of the prompt: a quarter of its bytes in UTF-8.

    That is OpenAI's rule of thumb for English (4 characters per token), 2.2 characters of Russian, 1.3 of Chinese: byte
    pair encodings do merge bytes. Published counts over 11 models: 4.26 characters per token of English, 1.58 of Korean
    (here 1.6); the same text has 1.45 times as many tokens in Russian (here about 1.8: rather too many than too few).
    """
    if request.prompt is not None:
        size, fixed = _bytes(request.prompt), PER_MESSAGE
    else:
        size = sum(_size(message) for message in request.messages)
        fixed = sum(PER_MESSAGE + PER_IMAGE * len(message.images) for message in request.messages)
    for tool in request.tools:
        size += len(tool.name) + _bytes(tool.description or "") + _bytes(str(tool.parameters))
    if request.response_format is not None and request.response_format.schema is not None:
        size += _bytes(str(request.response_format.schema))
    return size // BYTES + fixed


def completion_tokens(request: Request, average: float | None = None) -> int:
    """``max_tokens`` when the request sets it, as OpenAI and Azure count it; else the provider's average so far."""
    if request.params is not None and request.params.max_tokens is not None:
        return request.params.max_tokens
    return COMPLETION if average is None else round(average)


def _size(message: Message) -> int:
    return _bytes(message.text) + sum(len(call.name) + _bytes(call.arguments) for call in message.tool_calls)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
