"""What reading and writing cost in a conversation of 10,000 messages against one of 100, and in a list of 10,000.

The two of each pair take turns, so that whatever else the machine does falls on both. Nothing here knows how servers
are started.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import orjson

from bench.library import Library, stored
from bench.servers import Kind, Server, endpoint, server

MESSAGE = """id role createdAt text status siblingIndex metadata
  generation { model usage { inputTokens outputTokens } } parts { id index ... on TextPart { text } }"""
PAGE = f"""query Page($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {{ conversation(id: $id) {{
  id title messages(first: $first, after: $after, last: $last, before: $before) {{
    pageInfo {{ hasPreviousPage hasNextPage startCursor endCursor }} nodes {{ {MESSAGE} }} }} }} }}"""
LIST = """query List($first: Int, $after: String) { conversations(first: $first, after: $after) {
  pageInfo { hasNextPage endCursor } nodes { id title lastActivityAt leaf {
    text generation { usage { inputTokens outputTokens } } } } } }"""
SEND = """mutation Send($input: SendMessageInput!) { sendMessage(input: $input) {
  conversation { id } message { id } reply { id status } errors { message } } }"""
LEFT = "query Left($id: ID!) { conversation(id: $id) { activeReplies { id } leaf { status } } }"
TEXT = "And then what happened to the fox and to the dog? tokens=1 rate=1000"
SIZE = 50
ROUNDS = 6
PAGES_A_ROUND = 12
SENDS_A_ROUND = 8
REPLY_SECONDS = 0.25
"""Between two sends: the reply is begun, streamed and settled meanwhile, and its cost counted with the send's."""
Ask = Callable[[str, dict[str, object]], Awaitable[dict[str, object]]]
Variables = dict[str, object]


@dataclass(slots=True)
class Cost:
    """Of one operation: wall time at the client, and CPU of the server and of its PostgreSQL."""

    latency_ms: float
    cpu_ms: float
    database_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Against:
    """A case, with what it is measured against."""

    case: str
    large: Cost
    small: Cost

    @property
    def latency_ratio(self) -> float:
        return self.large.latency_ms / self.small.latency_ms

    @property
    def cpu_ratio(self) -> float:
        """The server's and its database's."""
        large, small = self.large, self.small
        return (large.cpu_ms + large.database_cpu_ms) / (small.cpu_ms + small.database_cpu_ms)


@dataclass(slots=True)
class _Tally:
    seconds: list[float] = field(default_factory=list)
    cpu: float = 0
    database_cpu: float = 0

    def cost(self) -> Cost:
        done = len(self.seconds)
        return Cost(1000 * statistics.median(self.seconds), 1000 * self.cpu / done, 1000 * self.database_cpu / done)


@dataclass(frozen=True, slots=True)
class _Stage:
    ask: Ask
    server: Server

    async def block(self, tally: _Tally, query: str, operations: Sequence[Variables], pause: float = 0) -> None:
        cpu, database_cpu = self.server.process.cpu_seconds(), self._database_cpu()
        for variables in operations:
            begun = time.perf_counter()
            await self.ask(query, variables)
            tally.seconds.append(time.perf_counter() - begun)
            if pause:
                await asyncio.sleep(pause)
        tally.cpu += self.server.process.cpu_seconds() - cpu
        tally.database_cpu += self._database_cpu() - database_cpu

    def _database_cpu(self) -> float:
        return 0 if self.server.database is None else self.server.database.cpu_seconds()

    async def against(
        self, case: str, query: str, large: Sequence[Variables], small: Sequence[Variables], pause: float = 0
    ) -> Against:
        """Both, a slice at a time in turn, after one of each that does not count."""
        tallies = _Tally(), _Tally()
        for operations in (large, small):
            await self.block(_Tally(), query, operations[:1], pause)
        for turn in range(ROUNDS):
            for tally, operations in zip(tallies, (large, small), strict=True):
                await self.block(tally, query, operations[1:][turn::ROUNDS], pause)
        return Against(case, tallies[0].cost(), tallies[1].cost())


async def measure(kind: Kind, *, long: int = 10_000, others: int = 10_000) -> list[Against]:
    """With a server of ours. Takes about a minute.

    The context of 4,096 tokens makes the prompt of a long conversation as long as that of a short one.
    """
    async with endpoint() as upstream, server(kind, upstream, TERTULIA_CONTEXT_TOKENS="4096") as running:
        library = await stored(running.database_url, short=100, long=long, each=2, others=others)
        async with _asking(running.process.url) as ask:
            stage = _Stage(ask, running)
            listing = await _listing(stage)
            pages = [await _pages(stage, library, case, where) for case, where in _places()]
            return [*pages, await _sending(stage, library), listing]


@asynccontextmanager
async def _asking(url: str) -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession(headers={"content-type": "application/json"}) as http:

        async def ask(query: str, variables: Variables) -> dict[str, object]:
            body = orjson.dumps({"query": query, "variables": variables})
            async with http.post(f"{url}/graphql", data=body) as response:
                answer = orjson.loads(await response.read())
            if answer.get("errors"):
                raise RuntimeError(str(answer["errors"])[:500])
            found: dict[str, object] = answer["data"]
            return found

        yield ask


def _places() -> list[tuple[str, tuple[Variables, str | None]]]:
    """What to ask for, and at which end the cursor is got that it starts from: after its second page from there."""
    return [
        ("the newest 50", ({}, None)),
        ("the oldest 50", ({"first": SIZE}, None)),
        ("the 50 after the oldest 50", ({"first": SIZE}, "after")),
        ("50 near the beginning, scrolling up", ({"last": SIZE}, "before")),
    ]


async def _pages(stage: _Stage, library: Library, case: str, where: tuple[Variables, str | None]) -> Against:
    count = ROUNDS * PAGES_A_ROUND + 1
    large, small = [[await _page(stage, name, *where)] * count for name in (library.long[0].id, library.short[0].id)]
    return await stage.against(f"{case} of 10,000 messages against 100", PAGE, large, small)


async def _page(stage: _Stage, conversation_id: str, arguments: Variables, cursor: str | None) -> Variables:
    if cursor is None:
        return {"id": conversation_id, **arguments}
    size = SIZE if cursor == "after" else SIZE + 1
    found: dict = (await stage.ask(PAGE, {"id": conversation_id, "first": size}))["conversation"]  # type: ignore[type-arg,assignment]
    return {"id": conversation_id, **arguments, cursor: found["messages"]["pageInfo"]["endCursor"]}


async def _sending(stage: _Stage, library: Library) -> Against:
    count = ROUNDS * SENDS_A_ROUND + 1
    large, small = [[_into(talks[n % len(talks)].id) for n in range(count)] for talks in (library.long, library.short)]
    found = await stage.against(
        "a send, with its reply, into 10,000 messages against 100", SEND, large, small, REPLY_SECONDS
    )
    for talk in (*library.long, *library.short):
        left: dict = (await stage.ask(LEFT, {"id": talk.id}))["conversation"]  # type: ignore[type-arg,assignment]
        if left["activeReplies"] or left["leaf"]["status"] != "COMPLETE":
            raise RuntimeError(f"not every reply was made in time: {left}")
    return found


def _into(conversation_id: str) -> Variables:
    return {"input": {"conversationId": conversation_id, "text": TEXT}}


async def _listing(stage: _Stage) -> Against:
    last: str | None = None
    cursor: str | None = None
    while True:
        page: dict = (await stage.ask(LIST, {"first": SIZE, "after": cursor}))["conversations"]  # type: ignore[type-arg,assignment]
        if not page["pageInfo"]["hasNextPage"]:
            break
        last, cursor = cursor, page["pageInfo"]["endCursor"]
    count = ROUNDS * PAGES_A_ROUND + 1
    large: list[Variables] = [{"first": SIZE, "after": last}] * count
    small: list[Variables] = [{"first": SIZE}] * count
    return await stage.against("a page of 50 of 10,000 conversations, the last against the first", LIST, large, small)
