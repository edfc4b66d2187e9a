"""Vendors that speak OpenAI's Chat Completions, as rows: what differs from OpenAI, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from orchestrator.providers.base import EVERYTHING

__all__ = ["VENDORS", "Vendor", "find_vendor"]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One dialect of Chat Completions.

    ``base_url`` stands before ``/chat/completions``; ``hosts``, and any host below them, identify the vendor.
    ``key_env`` is the customary environment variable of its key (the library never reads it), None where no key is
    needed. ``supports`` are the features of a request it takes (``Request.needs``); ``max_tokens`` and ``seed`` are
    its names of these fields. ``stream_options``: usage in a stream must be asked for;
    ``usage_in_streams``: whether it then comes. ``health`` is joined to
    ``base_url`` as a relative URL. ``nine_character_ids``: ids of tool calls have that form. ``folder``: models and
    calls belong to ``ProviderConfig.folder_id``. ``prefill``: how it is told that the last message is the beginning of
    the answer, which makes it support that: by that message being the assistant's (``last message``), by ``prefix:
    true`` in it, or by ``continue_final_message: true`` beside it; ``prefill_at``: only where ``base_url`` ends so.
    """

    name: str
    base_url: str | None = None
    hosts: tuple[str, ...] = ()
    key_env: str | None = None
    default_model: str | None = None
    supports: frozenset[str] = EVERYTHING
    named_tool_choice: bool = True
    stream_options: bool = True
    max_tokens: str = "max_tokens"
    seed: str = "seed"
    usage_in_streams: bool = True
    health: str = "models"
    nine_character_ids: bool = False
    folder: bool = False
    prefill: Literal["last message", "prefix", "continue_final_message"] | None = None
    prefill_at: str = ""


_ROWS = (
    Vendor(
        "openai", "https://api.openai.com/v1", ("api.openai.com",), "OPENAI_API_KEY", "gpt-6-luna",
        max_tokens="max_completion_tokens",
    ),
    Vendor(
        "openrouter", "https://openrouter.ai/api/v1", ("openrouter.ai",), "OPENROUTER_API_KEY", "openrouter/auto",
        health="key",  # the list of models is public and proves nothing about the key
    ),
    Vendor(
        "deepseek", "https://api.deepseek.com", ("api.deepseek.com",), "DEEPSEEK_API_KEY", "deepseek-v4-flash",
        supports=EVERYTHING - {"seed", "json_schema"}, prefill="prefix", prefill_at="/beta",
    ),
    Vendor("groq", "https://api.groq.com/openai/v1", ("api.groq.com",), "GROQ_API_KEY", "openai/gpt-oss-20b"),
    Vendor(
        "together", "https://api.together.xyz/v1", ("api.together.xyz", "api.together.ai"), "TOGETHER_API_KEY",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo", stream_options=False,
    ),
    Vendor(
        "mistral", "https://api.mistral.ai/v1", ("mistral.ai",), "MISTRAL_API_KEY", "mistral-small-latest",
        stream_options=False, seed="random_seed", nine_character_ids=True,  # unknown fields are refused with a 422
        prefill="prefix",
    ),
    Vendor(
        "yandex", "https://ai.api.cloud.yandex.net/v1", ("api.cloud.yandex.net",), "YANDEX_API_KEY", "yandexgpt-lite",
        supports=EVERYTHING - {"stop", "seed", "top_p", "json_object"}, stream_options=False, usage_in_streams=False,
        folder=True,
    ),
    Vendor("vllm", "http://localhost:8000/v1", health="../health", prefill="continue_final_message"),
    # Its list of models is answered even while the model is still loading. A model that thinks refuses the prefill.
    Vendor(
        "llamacpp", "http://localhost:8080/v1", default_model="default", health="health", prefill="last message",
    ),
    Vendor(
        "lmstudio", "http://localhost:1234/v1", supports=EVERYTHING - {"json_object"}, named_tool_choice=False,
    ),
    Vendor("ollama", "http://localhost:11434/v1", supports=EVERYTHING - {"tool_choice"}),
)

_ANY = Vendor("openai-compatible")

VENDORS: Mapping[str, Vendor] = MappingProxyType({row.name: row for row in _ROWS})


def find_vendor(vendor: Vendor | str | None = None, base_url: str | None = None) -> Vendor:
    """The row itself, the row of that name, or the one whose host ``base_url`` has.

    Without either it is OpenAI; an unknown host gets a plain row that supports everything. An unknown name is a
    ``ValueError`` that lists the known ones.
    """
    if isinstance(vendor, Vendor):
        return vendor
    if vendor is not None:
        if vendor not in VENDORS:
            raise ValueError(f"unknown vendor {vendor!r}; known: {', '.join(VENDORS)}")
        return VENDORS[vendor]
    if base_url is None:
        return VENDORS["openai"]
    host = urlsplit(base_url).hostname or ""
    return next((row for row in _ROWS if any(f".{host}".endswith(f".{known}") for known in row.hosts)), _ANY)
