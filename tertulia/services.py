"""The composition root: everything that a server is made of, opened in order and closed in reverse.

One function with keyword overrides; no container, no globals. Tests replace a part by naming it.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from uuid_utils import uuid7

from domain.account_service import AccountService
from domain.answers import Answers
from domain.approvals import ApprovalService
from domain.authentication import Authenticator, Watch
from domain.conversation_service import ConversationService
from domain.conversations import GenerationSettings, ModelParams
from domain.feed import ConversationFeed
from domain.generation import ReplyGenerator
from domain.inputs import Rules
from domain.journal import Journal
from domain.limits import Allowances, UserLimits
from domain.places import Places
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
from domain.turns import Turns
from domain.worker import ReplyWorker, Retention
from graph.context import ServerFacts, Services
from persistence.database import Database
from persistence.notifier import LocalNotifier, PostgresNotifier
from persistence.unit_of_work import SqlStorage
from providers.chat import ChatOptions, OpenAIChatModel
from providers.echo import EchoChatModel
from providers.local import LocalModelError, LocalModelProcess, find_local_model
from providers.tokens import TiktokenCounter
from tertulia import catalogue
from tertulia.accounts import METHODS, open_accounts
from tertulia.databases import background_database, open_database
from tertulia.plugins import load_registry
from tertulia.registry import Registry
from tertulia.settings import Settings
from tertulia.telemetry import OperatorTelemetry
from tertulia.toolbox import open_toolbox

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
        registry, turns = registry or load_registry(settings), Turns()
        database = await open_database(settings, stack)
        ports = Ports(
            database=database,
            storage=SqlStorage(database, clock),
            background=SqlStorage(background_database(settings, database, stack), clock),
            notifier=notifier or await _open_notifier(database, stack),
            model=model or await _open_model(settings, registry, stack, telemetry, turns),
            tokens=tokens or await _load_tokens(settings),
            clock=clock,
            ids=ids,
            telemetry=telemetry,
            toolbox=toolbox or await open_toolbox(settings, registry, stack),
        )
        owner = Owner(ids.new("work"))
        places = Places(owner, settings.max_live_replies)
        journal = Journal(ports.background, ports.notifier, telemetry, owner, turns)
        relay = Relay(ports.background, ports.notifier, telemetry)
        prompter = Prompter(ports.model, ports.tokens)
        allowances = Allowances(ports.storage, _user_limits(settings))
        accounts = open_accounts(settings, database, ports.storage, ports.notifier, clock, ids, stack)
        services = _services(settings, ports, journal, relay, prompter, allowances, accounts, places)
        worker = _worker(settings, ports, journal, prompter, allowances, services.approvals, places)
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
    places: Places,
) -> Services:
    storage, notifier, clock, ids, tokens = ports.storage, ports.notifier, ports.clock, ports.ids, ports.tokens
    rules, telemetry = Rules(settings.max_message_characters), ports.telemetry
    defaults = _defaults(settings, ports.model)
    conversations = ConversationService(
        storage, notifier, ports.model, tokens, allowances, clock, ids, rules, defaults, ports.toolbox
    )
    stream = ReplyStream(storage, notifier, journal, relay, telemetry)
    answers = Answers(prompter, allowances, clock, ids)
    account_service, authenticator = accounts
    return Services(
        accounts=account_service,
        authenticator=authenticator,
        watch=Watch(authenticator, clock, telemetry),
        conversations=conversations,
        replies=ReplyService(
            storage, notifier, conversations, stream, tokens, answers, allowances, clock, ids, rules, places
        ),
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
    places: Places,
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
        Rescuer(storage, ports.notifier, tokens, prompter, ids, telemetry, places.owner, recovery),
        approvals,
        clock,
        telemetry,
        _retention(settings),
        places,
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


async def _load_tokens(settings: Settings) -> TokenCounter:
    """Token ranks, loaded before the first request; without them counts are estimates."""
    counter = TiktokenCounter(settings.cache_folder)
    if not await asyncio.to_thread(counter.load):
        log.warning("the token ranks are missing: every count is an estimate")
    return counter


async def _open_model(
    settings: Settings, registry: Registry, stack: AsyncExitStack, telemetry: OperatorTelemetry, turns: Turns
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
    model = OpenAIChatModel(catalogue.with_default(providers, settings.model), options, telemetry, pace=turns.wait)
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
