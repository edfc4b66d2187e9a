"""``orchestrator ask``: one prompt, routed, and its answer written as it comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TextIO

from orchestrator.cli._render import harmless
from orchestrator.core.config import GenerationParams
from orchestrator.core.types import Completion, Finished, Message, TextDelta
from orchestrator.providers.base import BaseProvider
from orchestrator.router import Prompt, Router

__all__ = ["Output", "Question", "ask", "ask_simulated"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how. ``timeout``: seconds for everything, None for the router's own limit."""

    prompt: str
    system: str | None = None
    model: str | None = None
    params: GenerationParams | None = None
    strategy: str = "first-available"
    timeout: float | None = None
    stream: bool = True

    @property
    def conversation(self) -> Prompt:
        """The prompt alone where it is alone: that every provider takes."""
        return [Message("system", self.system), Message("user", self.prompt)] if self.system else self.prompt


class Output:
    """Where the text goes, piece by piece; a terminal gets no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._inside_line = False

    def __call__(self, text: str) -> None:
        """Write it now."""
        text = harmless(text) if self._terminal else text
        if text:
            self._stream.write(text)
            self._stream.flush()
            self._inside_line = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line that was begun, if any."""
        if self._inside_line:
            self("\n")


async def ask(question: Question, providers: Sequence[BaseProvider], write: Callable[[str], None]) -> Completion:
    """Route it over ``providers``, which are closed in the end; ``write`` gets the text as it comes."""
    if question.model is not None:
        for provider in providers:
            provider.config.model = question.model
    async with Router(question.strategy, providers) as router:
        if not question.stream:
            answer = await router.complete(question.conversation, question.params, timeout=question.timeout)
            write(answer.text)
            return answer
        answer = Completion("")  # until Finished brings the whole one
        async with aclosing(router.stream(question.conversation, question.params, timeout=question.timeout)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    write(event.text)
                elif isinstance(event, Finished):
                    answer = event.completion
        return answer


async def ask_simulated(question: Question, names: Collection[str], write: Callable[[str], None]) -> Completion:
    """The same, over those of the embedded servers that are named, or all."""
    from orchestrator.cli._simulated import question_servers

    async with AsyncExitStack() as stack:
        servers = [server for server in question_servers() if not names or server.name in names]
        for server in servers:
            await stack.enter_async_context(server)
        return await ask(question, [server.provider() for server in servers], write)
