"""One user's sends to several servers on one PostgreSQL, all at once."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from domain.errors import DomainError, QuotaExceeded, RateLimited
from domain.inputs import SendMessage
from domain.reply_service import ReplyService, Sent
from tertulia.services import open_services
from tests.contracts.storing import Shelf, only_postgresql
from tests.doubles import ScriptedModel, WordCounter
from tests.serving import settings_for

AT_ONCE = 50
LIMIT = 10_000


async def sent_at_once(shelf: Shelf, folder: Path, user_id: str, **limits: int) -> list[Sent | DomainError]:
    """What becomes of the sends, each to the next of three servers, none of which makes a reply."""
    none = {"sends_per_minute": 0, "max_live_replies_per_user": 0, "tokens_per_day": 0, "tokens_per_month": 0}
    url = shelf.database.url.render_as_string(hide_password=False)
    settings = settings_for(folder, database_url=url, worker=False, max_tokens=600, **(none | limits))
    async with AsyncExitStack() as stack:
        parts = {"model": ScriptedModel(), "tokens": WordCounter()}
        servers = [await stack.enter_async_context(open_services(settings, **parts)) for _ in range(3)]  # type: ignore[arg-type]

        async def send(replies: ReplyService) -> Sent | DomainError:
            try:
                return await replies.send_message(user_id, SendMessage("Hi"))
            except (QuotaExceeded, RateLimited) as refused:
                return refused

        return await asyncio.gather(*(send(servers[n % 3].services.replies) for n in range(AT_ONCE)))


@only_postgresql
async def test_sends_at_once_to_several_servers_never_reserve_more_than_the_budget(
    shelf: Shelf, tmp_path: Path
) -> None:
    ann = await shelf.user()
    ended = await sent_at_once(shelf, tmp_path, ann, tokens_per_day=LIMIT)
    async with shelf.storage.read() as work:
        use = await work.budgets.use(ann)
    taken = sum(isinstance(end, Sent) for end in ended)
    each = use.reserved // taken
    assert (use.live, use.reserved) == (taken, taken * each)
    assert LIMIT - each < use.reserved <= LIMIT
    assert sum(isinstance(end, QuotaExceeded) for end in ended) == AT_ONCE - taken


@only_postgresql
async def test_sends_at_once_to_several_servers_are_counted_by_all_of_them(shelf: Shelf, tmp_path: Path) -> None:
    ended = await sent_at_once(shelf, tmp_path, await shelf.user(), sends_per_minute=30)
    assert sum(isinstance(end, Sent) for end in ended) == 30


@only_postgresql
async def test_sends_at_once_to_several_servers_leave_no_more_replies_live_than_the_limit(
    shelf: Shelf, tmp_path: Path
) -> None:
    ended = await sent_at_once(shelf, tmp_path, await shelf.user(), max_live_replies_per_user=3)
    assert sum(isinstance(end, Sent) for end in ended) == 3
