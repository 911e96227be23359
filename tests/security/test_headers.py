"""What every answer says to browsers, whoever gives it; and what our pages may load."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from fastapi import Request
from websockets.exceptions import InvalidStatus

from tertulia import http
from tertulia.main import create_app
from tests.doubles import ScriptedModel, answer
from tests.graph.protocol import MULTIPART, SSE, raw_socket
from tests.serving import listening, settings_for

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
HSTS = "strict-transport-security"
PAGE = {"accept": "text/html"}


class Site:
    def __init__(self, url: str, browser: aiohttp.ClientSession) -> None:
        self.url = url
        self._browser = browser

    async def get(self, path: str, method: str = "GET", **headers: str) -> aiohttp.ClientResponse:
        """The answer, which has the headers that all have."""
        async with self._browser.request(
            method, self.url + path, headers=headers, allow_redirects=False, skip_auto_headers=["accept"]
        ) as response:
            await response.read()  # `text()` and `json()` have it then
        assert ALWAYS.items() <= lowered(response).items()
        return response


def lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def policy(response: aiohttp.ClientResponse) -> str:
    (found,) = response.headers.getall("content-security-policy")
    return found


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """With a GraphiQL that is two files, and an address that fails."""
    built = tmp_path / "graphiql"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<!doctype html>")
    (built / "assets" / "editor.worker-DEFT_Yb2.js").write_text("export {}")
    monkeypatch.setattr(http, "GRAPHIQL", built)
    app = create_app(settings_for(tmp_path, trusted_proxies=("127.0.0.1",)), model=ScriptedModel(answer("Hello")))

    @app.get("/fails")
    async def fails(_request: Request) -> None:
        raise RuntimeError("s3cret")

    async with listening(app) as url, aiohttp.ClientSession() as browser:
        yield Site(url, browser)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 200),
        ("/healthz", "GET", 200),
        ("/readyz", "GET", 200),
        ("/metrics", "GET", 200),
        ("/graphql?query={__typename}", "GET", 200),
        ("/graphql?query={nothing}", "GET", 200),
        ("/graphql", "GET", 400),
        ("/graphql", "PUT", 405),
        ("/graphql", "OPTIONS", 405),
        ("/graphql", "POST", 415),
        ("/absent", "GET", 404),
        ("/fails", "GET", 500),
        ("/graphiql/", "GET", 404),
        ("/graphiql/absent.js", "GET", 404),
        ("/graphiql/%2e%2e/%2e%2e/pyproject.toml", "GET", 404),
        ("/graphiql/index.html", "DELETE", 405),
    ],
)
async def test_what_is_no_page_may_load_nothing_and_is_not_kept(
    site: Site, path: str, method: str, status: int
) -> None:
    response = await site.get(path, method)
    assert (response.status, policy(response)) == (status, NO_PAGE)
    assert response.headers["cache-control"] == "no-store"
    assert HSTS not in response.headers


@pytest.mark.parametrize("accept", [SSE, MULTIPART], ids=["sse", "multipart"])
async def test_streams_say_the_same(site: Site, accept: dict[str, str]) -> None:
    watch = "/graphql?query=subscription{replyStream(replyId:%22none%22){cursor}}"
    response = await site.get(watch, **accept)
    assert (response.status, policy(response)) == (200, NO_PAGE)
    assert response.headers["cache-control"] == "no-store, no-transform"


async def test_refusals_before_anything_is_read_say_the_same(site: Site) -> None:
    foreign = await site.get("/healthz", Host="evil.example")
    assert (foreign.status, policy(foreign)) == (400, NO_PAGE)
    preflight = await site.get(
        "/graphql", "OPTIONS", origin="https://evil.example", **{"access-control-request-method": "POST"}
    )
    assert (preflight.status, policy(preflight)) == (400, NO_PAGE)


async def test_a_failure_of_the_server_is_masked_and_names_the_request(site: Site) -> None:
    response = await site.get("/fails")
    (error,) = (await response.json())["errors"]
    assert "s3cret" not in str(error)
    assert re.fullmatch(r"[0-9a-f]{16}", error["extensions"]["correlationId"])


async def test_a_socket_that_is_refused_is_no_page(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await raw_socket(site.url, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b""


async def test_only_a_client_that_came_by_https_is_told_to_stay_there(site: Site) -> None:
    response = await site.get("/healthz", **{"x-forwarded-proto": "https"})
    assert response.headers[HSTS] == "max-age=31536000"
    assert HSTS not in (await site.get("/healthz", **{"x-forwarded-proto": "http"})).headers


# ── our pages ──


async def test_the_first_page_may_load_nothing_but_its_own_style(site: Site) -> None:
    response = await site.get("/", **PAGE)
    style = re.search(r"<style>(.*)</style>", await response.text(), re.DOTALL)
    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert policy(response) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@pytest.mark.parametrize("path", ["/graphiql", "/graphiql/index.html", "/graphiql/assets/editor.worker-DEFT_Yb2.js"])
async def test_graphiql_loads_from_here_alone_under_any_path_and_its_workers_too(site: Site, path: str) -> None:
    response = await site.get(path)
    assert response.status == 200
    rules = dict(rule.split(" ", 1) for rule in policy(response).split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == rules["worker-src"] == "'self'"
    assert "unsafe" not in str(rules | {"style-src": ""})


async def test_files_with_a_hash_in_their_name_are_kept_for_ever_and_the_page_is_not(site: Site) -> None:
    asset = await site.get("/graphiql/assets/editor.worker-DEFT_Yb2.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (await site.get("/graphiql")).headers["cache-control"] == "no-store"
    page = await site.get("/graphiql/index.html")
    assert page.headers["cache-control"] == "no-cache"
    again = await site.get("/graphiql/index.html", **{"if-none-match": page.headers["etag"]})
    assert (again.status, policy(again)) == (304, policy(page))
