"""Whom a connection trusts, whichever engine makes it: the same authorities as httpx, without loading it."""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import certifi  # comes with httpx; the extra `fast`, which does without that, names it

from orchestrator.core.errors import ProviderError

if TYPE_CHECKING:
    from orchestrator.core.config import ProviderConfig

__all__ = ["tls_of"]


def tls_of(config: ProviderConfig) -> ssl.SSLContext:
    """The context for ``config.verify_ssl`` and ``config.ca_bundle``, a file added to the usual authorities."""
    if not config.verify_ssl:
        return _trusting()
    if config.ca_bundle is None:
        return _shared()
    if not Path(config.ca_bundle).is_file():
        raise ProviderError(f"ca_bundle: there is no file {config.ca_bundle!r}", provider=config.name)
    context = _usual()
    try:
        context.load_verify_locations(cafile=config.ca_bundle)
    except ssl.SSLError as exc:
        raise ProviderError(
            f"ca_bundle: {config.ca_bundle!r} holds no PEM certificates", provider=config.name
        ) from exc
    return context


@cache
def _shared() -> ssl.SSLContext:
    # Reading the authorities takes tens of milliseconds; providers without a bundle of their own share them.
    return _usual()


def _usual() -> ssl.SSLContext:
    """As ``httpx.create_ssl_context()`` of 0.28 makes it."""
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if directory := os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=directory)
    return ssl.create_default_context(cafile=certifi.where())


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
