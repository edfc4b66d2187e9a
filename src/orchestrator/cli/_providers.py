"""Providers from the environment: which variables configure which service, and what they configure now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from orchestrator.core.config import ProviderConfig
from orchestrator.providers import gigachat, yandexgpt
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.catalog import VENDORS, Vendor
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider

__all__ = ["Found", "Service", "services", "survey"]


@dataclass(frozen=True, slots=True)
class Service:
    """A service; ``variables`` maps fields of its configuration to what they are read from, ``needs`` are required."""

    name: str
    needs: tuple[str, ...]
    variables: Mapping[str, str]
    make: Callable[[ProviderConfig], BaseProvider]
    default_model: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What the environment makes of a service: a provider, a problem (half-configured, invalid), or neither."""

    service: Service
    provider: BaseProvider | None = None
    problem: str | None = None


def services() -> Iterator[Service]:
    """Every service the command line can ask, in the order in which they are tried."""
    for vendor in VENDORS.values():
        if not vendor.folder:  # Yandex: its native API, below, can do more
            yield _of_vendor(vendor)
    yield Service(
        "gigachat", ("GIGACHAT_CREDENTIALS",),
        {
            "api_key": "GIGACHAT_CREDENTIALS", "scope": "GIGACHAT_SCOPE", "model": "GIGACHAT_MODEL",
            "ca_bundle": "GIGACHAT_CA_BUNDLE_FILE", "base_url": "GIGACHAT_BASE_URL", "auth_url": "GIGACHAT_AUTH_URL",
        },
        gigachat.GigaChatProvider,
        gigachat.MODEL,
    )
    yield Service(
        "yandex", ("YANDEX_API_KEY", "YANDEX_FOLDER_ID"),
        {
            "api_key": "YANDEX_API_KEY", "folder_id": "YANDEX_FOLDER_ID", "model": "YANDEX_MODEL",
            "base_url": "YANDEX_BASE_URL",
        },
        yandexgpt.YandexGPTProvider,
        yandexgpt.MODEL,
    )


def _of_vendor(vendor: Vendor) -> Service:
    prefix = vendor.name.upper()
    variables = {"model": f"{prefix}_MODEL", "base_url": f"{prefix}_BASE_URL"}
    if vendor.key_env is not None:
        variables = {"api_key": vendor.key_env, **variables}
    # A server of one's own needs no key: whoever says where it is, wants it asked.
    needs = [vendor.key_env or variables["base_url"]]
    if vendor.default_model is None:
        needs.append(variables["model"])
    make = partial(OpenAICompatibleProvider, vendor=vendor)
    return Service(vendor.name, tuple(needs), variables, make, vendor.default_model)


def survey(environ: Mapping[str, str]) -> list[Found]:
    """What ``environ`` makes of each service."""
    return [_look(service, environ) for service in services()]


def _look(service: Service, environ: Mapping[str, str]) -> Found:
    given = {variable: environ.get(variable, "").strip() for variable in service.variables.values()}
    missing = [variable for variable in service.needs if not given[variable]]
    if len(missing) == len(service.needs):
        return Found(service)
    if missing:
        return Found(service, problem=f"{' and '.join(missing)} is not set")
    fields = {field: given[variable] for field, variable in service.variables.items() if given[variable]}
    try:
        return Found(service, service.make(ProviderConfig.model_validate({"name": service.name, **fields})))
    except ValueError as error:
        return Found(service, problem=str(error))
