"""Where a provider is: its URL without a password in it, and a warning where anybody could read along."""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from ipaddress import ip_address
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from orchestrator.providers._secret import Secret

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig

__all__ = ["Address", "address_of", "secrets_of", "warn_if_open"]

_log = logging.getLogger("orchestrator")
_warned: set[tuple[str, str]] = set()
_SECRET_NAME = re.compile("auth|key|token|secret|password|cookie|session", re.IGNORECASE)


class Address(NamedTuple):
    """A URL without a slash at its end, and the ``Authorization`` that the user and password in it stand for."""

    url: str
    authorization: Secret | None
    secrets: tuple[Secret, ...]


def address_of(config: ProviderConfig, field: str, url: str | None) -> Address:
    """The address that ``url`` is; a ``ValueError`` that names ``field``, and not the URL, when it is none."""
    parts = _split(url or "")
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{field} of {config.name!r} must begin with http:// or https:// and name a host")
    user, at, host = parts.netloc.rpartition("@")
    authorization: Secret | None = None
    secrets: tuple[Secret, ...] = ()
    if at:
        # httpx would do the same, but show the password in each log line and error that names the URL.
        name, _, password = user.partition(":")
        encoded = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        authorization = Secret(f"Basic {encoded}")
        secrets = Secret(encoded), Secret(unquote(password)), Secret(password)
    return Address(urlunsplit(parts._replace(netloc=host)).rstrip("/"), authorization, secrets)


def secrets_of(config: ProviderConfig, *addresses: Address) -> tuple[Secret, ...]:
    """What must not be repeated from a server's message: the key, passwords, and headers named as something secret."""
    key = (Secret(config.api_key.strip()),) if config.api_key else ()
    headers = (Secret(value) for name, value in config.headers.items() if _SECRET_NAME.search(name))
    return *key, *headers, *chain.from_iterable(address.secrets for address in addresses)


def warn_if_open(config: ProviderConfig, *urls: str, client: httpx.AsyncClient | None) -> None:
    """Warn, once for each host, where keys and prompts go over the network unencrypted or to whoever answers."""
    for url in urls:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if _is_loopback(host) or _stays_here(client):
            continue
        if parts.scheme == "http":
            _warn("http", host, "%s: keys, prompts and answers go to %s unencrypted; use https://", config)
        elif not config.verify_ssl and client is None:
            _warn("tls", host, "%s: the certificate of %s is not verified; verify_ssl is off", config)


def _warn(why: str, host: str, text: str, config: ProviderConfig) -> None:
    if (why, host) not in _warned:
        _warned.add((why, host))
        _log.warning(text, config.name, host)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for one that is no number, and shows what stands there
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _stays_here(client: httpx.AsyncClient | None) -> bool:
    """Whether the user's client has another way than the network: a Unix socket, an ASGI application, a test's own."""
    if client is None:
        return False
    import httpx  # as the user has

    transport = getattr(client, "_transport", None)  # httpx has no public way to it
    if not isinstance(transport, httpx.AsyncHTTPTransport):
        return True
    return getattr(getattr(transport, "_pool", None), "_uds", None) is not None
