"""GigaChat (Sber): chat v1 behind an OAuth token that all calls share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID

from orchestrator import core
from orchestrator.core.clock import Random, new_random
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
)
from orchestrator.core.types import Completion, Request
from orchestrator.providers import _gigachat_wire as wire
from orchestrator.providers._address import address_of, secrets_of, warn_if_open
from orchestrator.providers._conversation import Source
from orchestrator.providers._errors import error_from_response
from orchestrator.providers._native import Decoder, NativeProvider
from orchestrator.providers._oauth import Token, TokenHolder, lifetime_until
from orchestrator.providers._secret import SecretHeaders

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig, WireLimits

__all__ = ["GigaChatProvider"]

BASE_URL = "https://api.giga.chat/v1"
AUTH_URL = "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
SCOPE = "GIGACHAT_API_PERS"
MODEL = "GigaChat-2"


class GigaChatProvider(NativeProvider):
    """GigaChat with an authorization key.

    Of ``config``: ``api_key`` is the authorization key of the cabinet (base64 of ``client_id:client_secret``),
    ``scope`` what it was issued for (``GIGACHAT_API_PERS`` by default, ``_B2B``, ``_CORP``), ``ca_bundle`` a file with
    the Russian Trusted Root CA, which is added to the usual authorities. ``extra_body`` is sent with every request,
    whose own fields override it. ``random`` draws the ids of the token requests.
    """

    streams_usage = True
    supports: ClassVar[frozenset[str]] = wire.SUPPORTS

    _credentials: tuple[str | None, ...] = ()

    def __init__(
        self, config: ProviderConfig, *, http_client: httpx.AsyncClient | None = None, random: Random | None = None,
        limits: WireLimits | None = None,
    ) -> None:
        self._random = random or new_random()
        super().__init__(config, http_client=http_client, limits=limits)

    def _configure(self) -> None:
        config = self.config
        if not config.api_key:
            raise ValueError(f"api_key of {config.name!r} is not set: GigaChat needs the authorization key")
        address = address_of(config, "base_url", config.base_url or BASE_URL)
        oauth = address_of(config, "auth_url", config.auth_url or AUTH_URL)
        warn_if_open(config, address.url, oauth.url, client=self._client)
        self._secrets = secrets_of(config, address, oauth)
        self._auth_url = oauth.url
        self._url = f"{address.url}/chat/completions"
        self._health_url = f"{address.url}/models"
        self._model = config.model or MODEL
        self._headers = SecretHeaders({
            "content-type": "application/json", "accept": "application/json, text/event-stream",
        })
        if address.authorization:
            self._headers["authorization"] = address.authorization
        self._auth_headers = SecretHeaders({
            "authorization": oauth.authorization or f"Basic {config.api_key.strip()}",
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        })
        credentials = (config.api_key, config.scope, self._auth_url, oauth.authorization)
        if credentials != self._credentials:
            self._credentials = credentials
            self._tokens = TokenHolder(self._fetch_token, provider=config.name)

    def _refused_field(self, request: Request) -> str | None:
        return wire.refused_field(request)

    def _encode(self, request: Request, *, stream: bool) -> dict[str, Any]:
        return wire.encode(request, model=self._model, stream=stream, extra=self.config.extra_body)

    def _decode(self, payload: object, source: Source) -> Completion:
        return wire.decode(payload, source)

    def _decoder(self, source: Source) -> Decoder:
        return wire.StreamDecoder(source)

    async def _fetch_token(self) -> Token:
        config = self.config
        response = await self._http.send(
            "POST", self._auth_url,
            headers=self._auth_headers | {"rquid": str(UUID(int=self._random.getrandbits(128), version=4))},
            body=urlencode({"scope": config.scope or SCOPE}).encode(),
            connect=core.config.DEFAULT_TIMEOUTS.connect,
        )
        if not 200 <= response.status < 300:
            error = error_from_response(
                response.status, response.headers, response.body, provider=config.name, secrets=self._secrets
            )
            if isinstance(error, InvalidRequestError | ModelNotFoundError):
                # Nothing in this request is the caller's: what is wrong is our key, its scope or auth_url.
                raise AuthenticationError(
                    error.message, provider=config.name, status_code=error.status_code, code=error.code,
                    request_id=error.request_id,
                )
            raise error
        token = _token(response.json(self._limits), response.headers.get("date"))
        if token is None:
            raise MalformedResponseError("auth_url answered without a token or its expiry", provider=config.name)
        return token


def _token(payload: object, date: str | None) -> Token | None:
    if not isinstance(payload, dict):
        return None
    # The second form is that of the password login, and of one recorded OAuth server.
    value = payload.get("access_token", payload.get("tok"))
    expires_at = payload.get("expires_at", payload.get("exp"))
    if not isinstance(value, str) or not value or not isinstance(expires_at, int | float):
        return None
    return Token(value, lifetime_until(expires_at, date))
