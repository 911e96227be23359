"""The composition root: everything that a server is made of, opened in order and closed in reverse.

One function with keyword overrides; no container, no globals. Tests replace a part by naming it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from alembic.util import CommandError
from filelock import FileLock, Timeout
from uuid_utils import uuid7

from domain.account_service import AccountService
from domain.approvals import ApprovalService
from domain.authentication import Authenticator, Watch
from domain.conversation_service import ConversationService
from domain.conversations import GenerationSettings, ModelParams
from domain.errors import StorageError, Unavailable
from domain.feed import ConversationFeed
from domain.generation import ReplyGenerator
from domain.inputs import Rules
from domain.journal import Journal
from domain.limits import Allowances, UserLimits
from domain.ports import ChatModel, Clock, Ids, Notifier, TokenCounter
from domain.prompting import Prompter
from domain.relay import Relay
from domain.replies import Owner
from domain.reply_service import ReplyService
from domain.rescue import Rescuer
from domain.streaming import ReplyStream
from domain.task_service import TaskService
from domain.tool_running import ToolRunner
from domain.tools import Toolbox
from domain.worker import ReplyWorker, Retention
from graph.context import ServerFacts, Services
from persistence import schema
from persistence.database import Database, sqlite_advice
from persistence.notifier import LocalNotifier, PostgresNotifier
from persistence.unit_of_work import SqlStorage
from providers.chat import ChatOptions, OpenAIChatModel
from providers.echo import EchoChatModel
from providers.local import LocalModelError, LocalModelProcess, find_local_model
from providers.tokens import TiktokenCounter
from tertulia import catalogue
from tertulia.accounts import METHODS, open_accounts
from tertulia.plugins import load_registry
from tertulia.registry import Registry
from tertulia.settings import Settings, SettingsError
from tertulia.telemetry import OperatorTelemetry
from tertulia.toolbox import open_toolbox

BACKGROUND_CONNECTIONS = 5
BACKGROUND_SECONDS = 10.0
"""Longer waits would outlast the lease."""
FAREWELL_SECONDS = 1.0
log = structlog.get_logger("tertulia")


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class TimeOrderedIds:
    def new(self, prefix: str) -> str:
        return f"{prefix}_{uuid7().hex}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up: what the HTTP layer needs of it."""

    settings: Settings
    services: Services
    storage: SqlStorage
    database: Database
    worker: ReplyWorker
    model: ChatModel
    telemetry: OperatorTelemetry


@dataclass(frozen=True, slots=True)
class Ports:
    """What the domain's services reach the world by. `background` is the storage of what keeps replies going."""

    database: Database
    storage: SqlStorage
    background: SqlStorage
    notifier: Notifier
    model: ChatModel
    tokens: TokenCounter
    clock: Clock
    ids: Ids
    telemetry: OperatorTelemetry
    toolbox: Toolbox


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    model: ChatModel | None = None,
    tokens: TokenCounter | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    notifier: Notifier | None = None,
    registry: Registry | None = None,
    toolbox: Toolbox | None = None,
) -> AsyncIterator[Running]:
    """Open a server's parts. Raises SettingsError with a readable sentence when one cannot be had."""
    async with AsyncExitStack() as stack:
        telemetry, clock, ids = OperatorTelemetry(), clock or SystemClock(), ids or TimeOrderedIds()
        registry = registry or load_registry(settings)
        database = await _open_database(settings, stack)
        ports = Ports(
            database=database,
            storage=SqlStorage(database, clock),
            background=SqlStorage(_background(settings, database, stack), clock),
            notifier=notifier or await _open_notifier(database, stack),
            model=model or await _open_model(settings, registry, stack, telemetry),
            tokens=tokens or await _load_tokens(settings),
            clock=clock,
            ids=ids,
            telemetry=telemetry,
            toolbox=toolbox or await open_toolbox(settings, registry, stack),
        )
        owner = Owner(ids.new("work"))
        journal = Journal(ports.background, ports.notifier, telemetry, owner)
        relay = Relay(ports.background, ports.notifier, telemetry)
        prompter = Prompter(ports.model, ports.tokens)
        allowances = Allowances(ports.storage, _user_limits(settings))
        accounts = open_accounts(settings, database, ports.storage, ports.notifier, clock, ids, stack)
        services = _services(settings, ports, journal, relay, prompter, allowances, accounts)
        worker = _worker(settings, ports, journal, prompter, allowances, services.approvals, owner)
        await stack.enter_async_context(_going_on(relay.run(), "relay"))
        await stack.enter_async_context(_going_on(services.watch.run(), "watch"))
        if settings.worker:
            await stack.enter_async_context(_working(worker, settings.shutdown_grace))
        yield Running(settings, services, ports.storage, database, worker, ports.model, telemetry)


def _services(
    settings: Settings,
    ports: Ports,
    journal: Journal,
    relay: Relay,
    prompter: Prompter,
    allowances: Allowances,
    accounts: tuple[AccountService, Authenticator],
) -> Services:
    storage, notifier, clock, ids, tokens = ports.storage, ports.notifier, ports.clock, ports.ids, ports.tokens
    rules, telemetry = Rules(settings.max_message_characters), ports.telemetry
    defaults = _defaults(settings, ports.model)
    conversations = ConversationService(
        storage, notifier, ports.model, tokens, allowances, clock, ids, rules, defaults, ports.toolbox
    )
    stream = ReplyStream(storage, notifier, journal, relay, telemetry)
    account_service, authenticator = accounts
    return Services(
        accounts=account_service,
        authenticator=authenticator,
        watch=Watch(authenticator, clock, telemetry),
        conversations=conversations,
        replies=ReplyService(storage, notifier, conversations, stream, tokens, prompter, allowances, clock, ids, rules),
        stream=stream,
        feed=ConversationFeed(storage, notifier, relay, clock, telemetry),
        allowances=allowances,
        toolbox=ports.toolbox,
        approvals=ApprovalService(storage, notifier, ports.toolbox, clock, rules),
        tasks=TaskService(storage),
        facts=_facts(settings, account_service.policy.registration_open),
        observe=telemetry.operation,
        queued=telemetry.reply_queued,
    )


def _worker(
    settings: Settings,
    ports: Ports,
    journal: Journal,
    prompter: Prompter,
    allowances: Allowances,
    approvals: ApprovalService,
    owner: Owner,
) -> ReplyWorker:
    storage, tokens, clock, ids, telemetry = ports.background, ports.tokens, ports.clock, ports.ids, ports.telemetry
    recovery = settings.recovery
    tools = ToolRunner(storage, ports.storage, ports.toolbox, clock, ids, telemetry, settings.approval_timeout)
    return ReplyWorker(
        storage,
        ports.notifier,
        journal,
        ReplyGenerator(
            storage, journal, ports.model, tokens, prompter, tools, allowances, clock, ids, telemetry, recovery
        ),
        Rescuer(storage, ports.notifier, tokens, prompter, ids, telemetry, owner, recovery),
        approvals,
        clock,
        telemetry,
        _retention(settings),
        settings.max_live_replies,
        owner,
    )


@asynccontextmanager
async def _working(worker: ReplyWorker, grace: float) -> AsyncIterator[None]:
    async with _going_on(worker.run(), "worker"):
        try:
            yield
        finally:
            await worker.drain(grace)


@asynccontextmanager
async def _going_on(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Background work, until the context is left."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _open_notifier(database: Database, stack: AsyncExitStack) -> Notifier:
    if database.is_sqlite:
        return LocalNotifier()
    notifier = PostgresNotifier(database.url)
    await stack.enter_async_context(_going_on(notifier.run(), "bell"))
    stack.push_async_callback(notifier.flush, FAREWELL_SECONDS)
    return notifier


def _background(settings: Settings, database: Database, stack: AsyncExitStack) -> Database:
    """What keeps replies going has connections of its own on a server, so that no flood of requests starves it."""
    if database.is_sqlite:
        return database
    seconds = min(BACKGROUND_SECONDS, settings.database_statement_timeout)
    own = Database(
        settings.database_url, pool_size=BACKGROUND_CONNECTIONS, pool_seconds=seconds, statement_seconds=seconds
    )
    stack.push_async_callback(own.close)
    return own


async def _open_database(settings: Settings, stack: AsyncExitStack) -> Database:
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        pool_seconds=settings.database_pool_timeout,
        statement_seconds=settings.database_statement_timeout,
    )
    stack.push_async_callback(database.close)
    if database.is_sqlite and not settings.worker:
        raise SettingsError(
            "TERTULIA_WORKER is false, but SQLite serves one process at a time: nobody would make replies. Let this "
            "server make them, or use PostgreSQL for several."
        )
    with usable_database():
        if database.file is not None:
            database.file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_server(database.file))
            if (advice := sqlite_advice()) is not None:
                log.warning("this Python's SQLite is old", advice=advice)
            await schema.upgrade(database)
        else:
            await check_revision(database)
    return database


async def check_revision(database: Database) -> None:
    """Raises SettingsError when the database, which others may be using, has to be migrated by whoever runs it."""
    if (revision := await schema.current_revision(database)) != schema.newest_revision():
        raise SettingsError(
            f"The database that DATABASE_URL names is at revision {revision or 'none'}, but this version needs "
            f"{schema.newest_revision()}; run `tertulia migrate` first."
        )


@contextmanager
def usable_database() -> Iterator[None]:
    """Turn whatever keeps a command or the start of a server from using the database into a SettingsError."""
    try:
        yield
    except (Unavailable, StorageError, CommandError, OSError) as error:
        raise SettingsError(f"The database that DATABASE_URL names cannot be used: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """One line of what the driver or the system says, without SQL and without values."""
    cause: BaseException = error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror if cause.filename is None else f"{cause.strerror}: {cause.filename}"
    line = next(iter(str(cause).splitlines()), "") or type(cause).__name__
    return re.sub(r"^<class '[^']*'>: ", "", line).rstrip(".")


def only_server(file: Path) -> FileLock:
    """The lock that makes this process the only server on a SQLite file. Raises SettingsError when there is one."""
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SettingsError(
            f"Another server already uses {file}: SQLite serves one at a time. Stop that one, name another file in "
            "DATABASE_URL, or use PostgreSQL for several."
        ) from error
    return lock


async def _load_tokens(settings: Settings) -> TokenCounter:
    """Token ranks, loaded before the first request; without them counts are estimates."""
    counter = TiktokenCounter(settings.cache_folder)
    if not await asyncio.to_thread(counter.load):
        log.warning("the token ranks are missing: every count is an estimate")
    return counter


async def _open_model(
    settings: Settings, registry: Registry, stack: AsyncExitStack, telemetry: OperatorTelemetry
) -> ChatModel:
    providers = catalogue.configured_providers(settings, registry.providers)
    if not providers:
        weights = find_local_model()
        if weights is None:
            log.warning("no model is configured and the demo model is not installed: answering with an echo")
            return EchoChatModel()
        try:
            process = await stack.enter_async_context(LocalModelProcess(weights))
        except LocalModelError as error:
            log.warning("the demo model did not start: answering with an echo", reason=str(error))
            return EchoChatModel()
        providers = [process.provider()]
    options = ChatOptions(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        total_timeout=settings.total_timeout,
        max_retries=settings.max_retries,
    )
    model = OpenAIChatModel(catalogue.with_default(providers, settings.model), options, telemetry)
    stack.push_async_callback(model.aclose)
    return model


def _defaults(settings: Settings, model: ChatModel) -> GenerationSettings:
    default = next(m for m in model.models() if m.is_default)
    most = min(settings.max_tokens, (default.context_tokens or 2**31) // 4)
    return GenerationSettings(
        model=default.name,
        system_prompt=settings.system_prompt,
        params=ModelParams(temperature=settings.temperature, max_tokens=most),
        tools=settings.tools,
    )


def _user_limits(settings: Settings) -> UserLimits:
    return UserLimits(
        settings.sends_per_minute or None,
        settings.max_live_replies_per_user or None,
        settings.tokens_per_day or None,
        settings.tokens_per_month or None,
    )


def _retention(settings: Settings) -> Retention:
    return Retention(
        timedelta(seconds=settings.stream_retention),
        timedelta(days=settings.deleted_retention),
        events=timedelta(hours=settings.event_retention),
    )


def _facts(settings: Settings, registration_open: bool) -> ServerFacts:
    return ServerFacts(
        _version(),
        settings.max_message_characters,
        settings.stream_retention,
        METHODS[settings.auth],
        registration_open,
        settings.refresh_cookie,
    )


def _version() -> str:
    from tertulia import __version__

    return __version__
