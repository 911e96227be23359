"""The 61 audits of graphql-http, which is the reference implementation of GraphQL over HTTP."""

from tests.clients.scripts import Scripts
from tests.serving import Serving


async def test_every_audit_of_graphql_over_http_is_passed(server: Serving, scripts: Scripts) -> None:
    [results] = [line async for line in scripts.lines("audits.mjs", f"{server.url}/graphql")]
    assert [audit for audit in results if audit["status"] != "ok"] == []
    assert len(results) == 61
