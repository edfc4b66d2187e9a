"""The embedded servers that stand in for real services: one for each wire format, over real HTTP on loopback."""

from __future__ import annotations

from functools import partial

from orchestrator.testing.servers import SimulatedProvider, Vendor

__all__ = ["ANNOUNCEMENT", "NAMES", "demo_servers", "question_servers"]

_FORMATS: dict[str, Vendor] = {"alpha": "openai", "beta": "gigachat", "gamma": "yandex"}
NAMES = tuple(_FORMATS)

ANNOUNCEMENT = (
    "No key in the environment (see: orchestrator providers). Asking simulated providers on this machine, over real "
    "HTTP: alpha (OpenAI format, made to fail), beta (GigaChat format), gamma (YandexGPT format)."
)


def question_servers() -> list[SimulatedProvider]:
    """For one prompt: they answer at the pace of a reader, and the first one is down."""
    servers = [
        SimulatedProvider(kind, name=name, latency=0.2, tokens_per_second=40, answer=partial(_answer, name))
        for name, kind in _FORMATS.items()
    ]
    servers[0].down("503")
    return servers


def demo_servers(seed: int | None) -> list[SimulatedProvider]:
    """For a steady load: the first one is the fastest, so that its loss is felt."""
    latencies = (0.12, 0.15, 0.19)
    return [
        SimulatedProvider(kind, name=name, latency=latency, jitter=latency / 4, seed=(seed or 0) + index)
        for index, ((name, kind), latency) in enumerate(zip(_FORMATS.items(), latencies, strict=True))
    ]


def _answer(name: str, prompt: str) -> str:
    shown = prompt.strip() if len(prompt) <= 200 else f"{prompt[:200].strip()}…"
    return (
        f"You asked: {shown}\n\n"
        f"These words came over real HTTP, but no model wrote them: {name} is a simulated provider on this machine. "
        "Set a key, such as OPENAI_API_KEY or GIGACHAT_CREDENTIALS, and the same command asks a real one."
    )
