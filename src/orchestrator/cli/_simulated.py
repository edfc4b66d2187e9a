"""The embedded servers that stand in for real services: one for each wire format, over real HTTP on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from orchestrator.core.errors import NoProvidersError
from orchestrator.testing.servers import SimulatedProvider

__all__ = ["ANNOUNCEMENT", "NAMES", "demo_servers", "servers_for_a_question"]

NAMES = ("alpha", "beta", "gamma")
_FORMATS = ("openai", "gigachat", "yandex")
_DEMO_LATENCIES = (0.12, 0.15, 0.19)
_PACE = 45.0  # tokens per second, about what one reads

ANNOUNCEMENT = """\
No key in the environment (see: orchestrator providers), so three simulated providers are started on this machine.
They speak real HTTP: alpha in the OpenAI format, beta in GigaChat's, gamma in YandexGPT's. alpha is made to fail."""


def _answer(name: str, prompt: str) -> str:
    return (
        f"You asked: {prompt.strip()}\n\n"
        f"This answer came over real HTTP, but there is no model behind it: {name} is a simulated provider on your own "
        "machine. Set a key, for example OPENAI_API_KEY or GIGACHAT_CREDENTIALS, and the same command asks a real one."
    )


@asynccontextmanager
async def servers_for_a_question(names: Iterable[str] = NAMES) -> AsyncGenerator[list[SimulatedProvider], None]:
    """Those of the three that are named; the first of the three is down."""
    async with AsyncExitStack() as stack:
        servers = []
        for name, kind in zip(NAMES, _FORMATS, strict=True):
            if name in names:
                server = SimulatedProvider(
                    kind, name=name, latency=0.2, tokens_per_second=_PACE,
                    answer=lambda prompt, name=name: _answer(name, prompt),
                )
                servers.append(await stack.enter_async_context(server))
        yield servers
