"""Any async callable as a provider."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, get_args

from orchestrator import core
from orchestrator.core.errors import MalformedResponseError
from orchestrator.core.types import Completion, Finished, Request, StreamEvent, TextDelta
from orchestrator.providers.base import CONVERSATION, PARAMS, BaseProvider

if TYPE_CHECKING:
    from orchestrator.core.config import ProviderConfig

__all__ = ["FunctionProvider", "Takes"]

Takes = Literal["prompt", "prompt, params", "request"]
_CARRIES: dict[str, frozenset[str]] = {"prompt": frozenset(), "prompt, params": PARAMS, "request": CONVERSATION}


class FunctionProvider(BaseProvider):
    """Asks ``func``: an ``async def`` that returns ``str`` or ``Completion``, or an async generator of ``str`` pieces.

    ``takes`` says how it is called: ``func(prompt)``, ``func(prompt, params)`` or ``func(request)``. It is said, not
    guessed from names or type hints: those may be missing, may lie, and a second parameter with a default is no sign
    that it wants the params. ``supports`` names the features of a request it can carry (``BaseProvider.supports``); by
    default none for a prompt alone, the knobs with params, and whole conversations with a request.
    """

    def __init__(
        self,
        config: ProviderConfig | str,
        func: Callable[..., Awaitable[str | Completion]] | Callable[..., AsyncGenerator[str, None]],
        *,
        takes: Takes = "prompt",
        supports: frozenset[str] | None = None,
    ) -> None:
        super().__init__(core.config.ProviderConfig(name=config) if isinstance(config, str) else config)
        if takes not in get_args(Takes):
            raise ValueError(f"takes is {takes!r}; one of: {', '.join(map(repr, get_args(Takes)))}")
        self._func: Callable[..., Any] = func
        self._streams = _is(inspect.isasyncgenfunction, func)
        if not self._streams and not _is(inspect.iscoroutinefunction, func):
            raise TypeError(
                f"{func!r} is not async: it would block every other call while it runs. Make it an 'async def' that "
                "awaits, or 'await asyncio.to_thread(...)' in one"
            )
        self._takes = takes
        # An attribute of the class elsewhere; here each object carries what its function can.
        self.supports = _CARRIES[takes] if supports is None else supports  # type: ignore[misc]

    async def complete(self, request: Request) -> Completion:
        """What the function returns, or all its pieces together."""
        if self._streams:
            return await super().complete(request)
        result = await self._call(request)
        if isinstance(result, str):
            return Completion(result)
        if isinstance(result, Completion):
            return result
        raise self._wrong(result, "a str or a Completion")

    async def open_stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """The function's pieces; what it returns whole is one piece."""
        if not self._streams:
            completion = await self.complete(request)
            if completion.text:
                yield TextDelta(completion.text)
            yield Finished(completion)
            return
        async with aclosing(self._call(request)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, str):
                    raise self._wrong(piece, "str pieces")
                if piece:
                    yield TextDelta(piece)
        yield Finished(Completion(""))

    def _call(self, request: Request) -> Any:  # noqa: ANN401  # whatever the user's function returns
        if self._takes == "request":
            return self._func(request)
        prompt = self._only_prompt(request)
        return self._func(prompt) if self._takes == "prompt" else self._func(prompt, request.params)

    def _wrong(self, value: object, expected: str) -> MalformedResponseError:
        return MalformedResponseError(
            f"the function gave {type(value).__name__}, expected {expected}", provider=self.name
        )


def _is(kind: Callable[[object], bool], func: object) -> bool:
    """Whether the function, or the ``__call__`` of the object, is of that kind; a ``partial`` is looked into."""
    return kind(func) or (callable(func) and kind(type(func).__call__))
