"""Vendors as rows: found by name or host, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.config import ProviderConfig
from orchestrator.core.types import Request, ResponseFormat, Tool, ToolChoice
from orchestrator.providers.base import EVERYTHING
from orchestrator.providers.catalog import VENDORS, Vendor, find_vendor
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider


@pytest.mark.parametrize(("base_url", "name"), [
    ("https://api.openai.com/v1", "openai"), ("https://openrouter.ai/api/v1/", "openrouter"),
    ("https://api.deepseek.com", "deepseek"), ("https://api.groq.com/openai/v1", "groq"),
    ("https://api.together.ai/v1", "together"), ("https://api.together.xyz/v1", "together"),
    ("https://api.eu.mistral.ai/v1", "mistral"), ("https://llm.api.cloud.yandex.net/v1", "yandex"),
    ("https://API.OPENAI.COM:443/v1", "openai"),
    ("https://notopenrouter.ai/v1", "openai-compatible"), ("http://localhost:1234/v1", "openai-compatible"),
    ("nonsense", "openai-compatible"), (None, "openai"),
])
def test_the_host_tells_the_vendor(base_url, name):
    assert find_vendor(base_url=base_url).name == name


def test_a_vendor_that_is_given_is_not_guessed():
    assert find_vendor("lmstudio", "https://api.openai.com/v1") is VENDORS["lmstudio"]
    own = Vendor("mine", max_tokens="limit")
    assert find_vendor(own, "https://api.openai.com/v1") is own


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown vendor 'gork'; known: openai, openrouter, .*ollama"):
        find_vendor("gork")


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=list(VENDORS))
def test_every_row_makes_a_provider(vendor):
    provider = OpenAICompatibleProvider(
        ProviderConfig(name="p", api_key="k", model="m", folder_id="f"), vendor=vendor.name
    )
    assert provider.vendor is vendor
    assert vendor.supports <= EVERYTHING
    assert (vendor.key_env is None) == (not vendor.hosts)
    assert not (vendor.base_url or "/").endswith("/")
    assert all(find_vendor(base_url=f"https://{host}/v1") is vendor for host in vendor.hosts)


def test_the_documented_table_is_the_catalog():
    page = (Path(__file__).parents[3] / "docs" / "providers" / "catalog.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and "http" in line]
    assert [row.split("`")[1::2][:2] for row in rows] == [[v.name, v.base_url] for v in VENDORS.values()]
    for row, vendor in zip(rows, VENDORS.values(), strict=True):
        assert all(f"`{value}`" in row for value in (vendor.key_env, vendor.default_model) if value)


@pytest.mark.parametrize(("vendor", "path"), [
    ("openai", "https://api.openai.com/v1/models"), ("openrouter", "https://openrouter.ai/api/v1/key"),
    ("vllm", "http://localhost:8000/health"), ("llamacpp", "http://localhost:8080/v1/health"),
    ("deepseek", "https://api.deepseek.com/models"),
])
def test_health_is_asked_where_the_answer_means_something(vendor, path):
    assert OpenAICompatibleProvider(ProviderConfig(name="p", model="m"), vendor=vendor)._health_url == path


SCHEMA = ResponseFormat({"type": "object"})
NAMED = ToolChoice("named", "f")


@pytest.mark.parametrize(("vendor", "fields", "missing"), [
    ("openai", {"response_format": SCHEMA, "tools": [Tool("f")], "tool_choice": NAMED}, None),
    ("deepseek", {"response_format": SCHEMA}, "json_schema"),
    ("deepseek", {"response_format": ResponseFormat()}, None),
    ("lmstudio", {"response_format": ResponseFormat()}, "json_object"),
    ("lmstudio", {"response_format": SCHEMA}, None),
    ("lmstudio", {"tools": [Tool("f")], "tool_choice": NAMED}, "tool_choice"),
    ("lmstudio", {"tools": [Tool("f")], "tool_choice": ToolChoice("required")}, None),
    ("ollama", {"tools": [Tool("f")], "tool_choice": ToolChoice("auto")}, "tool_choice"),
    ("ollama", {"tools": [Tool("f")]}, None),
])
def test_what_a_vendor_lacks_is_named(vendor, fields, missing):
    provider = OpenAICompatibleProvider(ProviderConfig(name="p", model="m"), vendor=vendor)
    assert provider.unsupported(Request("hi", **fields)) == missing
