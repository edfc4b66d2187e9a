"""``orchestrator ask``: one prompt, routed, and its answer written as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from orchestrator.core.config import GenerationParams
from orchestrator.core.types import Completion, Finished, Message, TextDelta
from orchestrator.providers.base import BaseProvider
from orchestrator.router import Prompt, Router

__all__ = ["Question", "ask"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how. ``timeout`` in seconds for everything, None for the router's own limit."""

    prompt: str
    system: str | None = None
    params: GenerationParams | None = None
    timeout: float | None = None
    stream: bool = True

    @property
    def conversation(self) -> Prompt:
        """The prompt alone where it is alone: that every provider takes."""
        return [Message("system", self.system), Message("user", self.prompt)] if self.system else self.prompt


async def ask(
    question: Question, providers: Iterable[BaseProvider], strategy: str, write: Callable[[str], None]
) -> Completion:
    """Route it over ``providers``, which are closed in the end; ``write`` gets the text as it comes."""
    async with Router(strategy, providers) as router:
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
