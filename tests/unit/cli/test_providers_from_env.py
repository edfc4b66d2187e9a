"""Providers from the environment: which variables make which provider, and what is said about the others."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from orchestrator.cli._app import app
from orchestrator.cli._providers import services, survey
from orchestrator.providers import GigaChatProvider, OpenAICompatibleProvider, YandexGPTProvider

KEY = "not-a-real-key-0123456789"
VENDORS = ["openai", "openrouter", "deepseek", "groq", "together", "mistral"]


@pytest.fixture
def no_keys(monkeypatch):
    for service in services():
        for variable in service.variables.values():
            monkeypatch.delenv(variable, raising=False)


def ready(**environ):
    return {item.service.name: item.provider for item in survey(environ) if item.provider is not None}


def problems(**environ):
    return {item.service.name: item.problem for item in survey(environ) if item.problem is not None}


def test_an_empty_environment_configures_nothing_and_is_no_problem():
    assert ready() == {}
    assert problems() == {}


def test_every_service_and_every_variable_stands_for_itself():
    names = [service.name for service in services()]
    variables = [variable for service in services() for variable in service.variables.values()]
    assert len(names) == len(set(names))
    assert len(variables) == len(set(variables))


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_key_is_enough_for_a_vendor_of_the_catalog(vendor):
    found = ready(**{f"{vendor.upper()}_API_KEY": KEY})
    assert list(found) == [vendor]
    provider = found[vendor]
    assert isinstance(provider, OpenAICompatibleProvider)
    assert provider.vendor.name == vendor
    assert provider.config.api_key == KEY


def test_model_and_address_can_be_overridden():
    provider = ready(GROQ_API_KEY=KEY, GROQ_MODEL="m", GROQ_BASE_URL="http://localhost:9/v1")["groq"]
    assert (provider.config.model, provider.config.base_url) == ("m", "http://localhost:9/v1")
    assert provider.vendor.name == "groq"


def test_an_own_server_needs_an_address_but_no_key():
    found = ready(LLAMACPP_BASE_URL="http://localhost:8080/v1")
    assert list(found) == ["llamacpp"]
    assert problems(VLLM_BASE_URL="http://localhost:8000/v1") == {"vllm": "VLLM_MODEL is not set"}


def test_gigachat_takes_credentials_scope_model_and_its_authority():
    provider = ready(
        GIGACHAT_CREDENTIALS=KEY, GIGACHAT_SCOPE="GIGACHAT_API_B2B", GIGACHAT_MODEL="GigaChat-2-Pro",
        GIGACHAT_CA_BUNDLE_FILE="root.pem",
    )["gigachat"]
    assert isinstance(provider, GigaChatProvider)
    config = provider.config
    assert (config.api_key, config.scope, config.model, config.ca_bundle) == (
        KEY, "GIGACHAT_API_B2B", "GigaChat-2-Pro", "root.pem"
    )


def test_yandex_takes_key_folder_and_model():
    provider = ready(YANDEX_API_KEY=KEY, YANDEX_FOLDER_ID="folder", YANDEX_MODEL="yandexgpt")["yandex"]
    assert isinstance(provider, YandexGPTProvider)
    assert (provider.config.folder_id, provider.config.model) == ("folder", "yandexgpt")


@pytest.mark.parametrize(("there", "missing"), [
    ("YANDEX_API_KEY", "YANDEX_FOLDER_ID"), ("YANDEX_FOLDER_ID", "YANDEX_API_KEY"),
])
def test_half_of_what_yandex_needs_is_a_problem_that_names_the_other_half_and_not_the_value(there, missing):
    assert problems(**{there: KEY}) == {"yandex": f"{missing} is not set"}


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_an_empty_value_is_as_good_as_none(value):
    assert ready(OPENAI_API_KEY=value) == {}
    assert problems(OPENAI_API_KEY=value) == {}


def test_a_value_is_taken_without_the_line_break_of_the_file_it_came_from():
    assert ready(OPENAI_API_KEY=f"{KEY}\n")["openai"].config.api_key == KEY


def test_what_the_provider_refuses_is_a_problem_without_the_key():
    said = problems(OPENAI_API_KEY=KEY, OPENAI_BASE_URL="localhost")
    assert "base_url" in said["openai"]
    assert KEY not in said["openai"]


def test_providers_are_tried_in_the_order_of_the_catalog_then_gigachat_and_yandex():
    everything = {f"{vendor.upper()}_API_KEY": KEY for vendor in reversed(VENDORS)}
    found = ready(**everything, YANDEX_API_KEY=KEY, YANDEX_FOLDER_ID="f", GIGACHAT_CREDENTIALS=KEY)
    assert list(found) == [*VENDORS, "gigachat", "yandex"]


@pytest.mark.usefixtures("no_keys")
def test_the_command_shows_what_is_ready_incomplete_and_possible_but_no_key(monkeypatch):
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    monkeypatch.setenv("YANDEX_API_KEY", KEY)
    result = CliRunner().invoke(app, ["providers", "--plain"])
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in result.stdout.splitlines()}
    assert lines["mistral"].split() == ["ready", "MISTRAL_API_KEY", "mistral-small-latest"]
    assert lines["yandex"].startswith("incomplete  YANDEX_API_KEY + YANDEX_FOLDER_ID")
    assert lines["gigachat"] == "not set     GIGACHAT_CREDENTIALS"
    assert KEY not in result.output
    assert result.exit_code == 0
