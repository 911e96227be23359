"""AsyncOpenAI as it is configured for one endpoint, and its request for a completion, prepared once.

AsyncOpenAI says what a request looks like (key, address, headers, time limits, proxy) and owns the session of aiohttp
that holds the connections. Each request is that one with another body and goes to this session directly: the layers
in between would make all of it anew each time. Knows no request of ours, and judges no answer.
"""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai._models import FinalRequestOptions

from providers.errors import never_sent

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OFFICIAL_HOST = "api.openai.com"
_CONNECTIONS = httpx2.Limits(max_connections=10_000, keepalive_expiry=30.0)
"""How many replies are written at a time is decided elsewhere: nobody shall wait for a connection here."""


class CompletionsClient:
    """Asks for completions at `base_url`, which may hold a name and password: they then take the place of the key.

    `connect_timeout` is in seconds. `close` it in the end; a request after that raises RuntimeError.
    """

    def __init__(self, base_url: str, api_key: str, connect_timeout: float) -> None:
        self._client = _client(base_url, api_key, connect_timeout)
        self._pattern = self._client._build_request(
            FinalRequestOptions(method="post", url="/chat/completions", json_data={})
        )
        self._post: partial[Any] | None = None

    async def close(self) -> None:
        await self._client.close()

    async def post(self, body: bytes, tries: int = 3) -> aiohttp.ClientResponse:
        """The answer as soon as its head is there, whatever its status; no redirect is followed.

        Some servers close connections that they promised to keep; what never left on one goes over another. Raises
        what aiohttp raises.
        """
        post = self._post = self._post or self._prepared()
        try:
            response: aiohttp.ClientResponse = await post(data=aiohttp.BytesPayload(body))
        except aiohttp.ClientError as error:
            if tries > 1 and never_sent(error):
                return await self.post(body, tries - 1)
            raise
        return response

    def _prepared(self) -> "partial[Any]":
        """Needs the running event loop, as the session does. Which transport serves an address, only the HTTP client's
        private parts know.
        """
        if self._client.is_closed():
            raise RuntimeError("The client of this endpoint is closed.")
        pattern = self._pattern
        transport: Any = self._client._client._transport_for_url(pattern.url)
        transport.client = session = transport.get_client()
        headers = session.headers.copy()  # of the type that the session copies fastest
        headers.extend(_headers(pattern))
        limits = pattern.extensions["timeout"]
        return partial(
            session.post,
            str(pattern.url),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(connect=limits["pool"], sock_connect=limits["connect"]),
            proxy=_proxy(transport.proxy),
        )


def _client(base_url: str, api_key: str, connect_timeout: float) -> AsyncOpenAI:
    """Follows no redirects, makes nothing twice, and sends the environment's account and headers only to OpenAI."""
    host = urlsplit(base_url).hostname or ""
    # No limit on reads: the client would wind its clock up for every packet, where `Answer` does for every read.
    timeout = httpx2.Timeout(None, connect=connect_timeout, pool=connect_timeout)
    client = AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(
            timeout=timeout, limits=_CONNECTIONS, follow_redirects=False, trust_env=host not in _LOOPBACK
        ),
    )
    if host != _OFFICIAL_HOST:
        client.organization = client.project = None
        client._custom_headers = {}
    return client


def _headers(pattern: httpx2.Request) -> list[tuple[str, str]]:
    """Without the length, which each body has of its own, and without the key where the address says who asks."""
    left_out = {"content-length", "authorization" if pattern.url.userinfo else ""}
    return [(name, value) for name, value in pattern.headers.multi_items() if name not in left_out]


def _proxy(proxy: httpx2.Proxy | None) -> str | None:
    if proxy is None:
        return None
    name, password = proxy.auth or (None, None)
    return str(proxy.url.copy_with(username=name, password=password))
