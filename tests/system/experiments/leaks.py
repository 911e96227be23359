"""Secrets and people's words, unmistakable and everywhere; then everything that servers and commands say is searched.

Prompts, replies and titles may be in answers to their owner alone, and in PostgreSQL's log where its operator has it
log statements; passwords, keys and tokens not even there.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.system.canaries import Canaries, finds
from tests.system.cluster import Cluster, cluster
from tests.system.polling import until
from tests.system.processes import ROOT, ServerProcess, environment_for
from tests.system.quoting import WAYS, Quoting, quoting
from tests.system.report import LONG, Outcome, Progress
from tests.system.tour import (
    CHANGE,
    CREATE,
    DELETE,
    LOGIN,
    LOGOUT,
    NEW_KEY,
    REFRESH,
    RENAME,
    SEND,
    Tourist,
    go_wrong,
    look,
    look_around,
    sign_up,
    talk,
)

SECRETS = ("provider key", "signing key", "database password", "metrics token", "password", "new password")
TYPED = ("typed password", "typed text")
"""Given by everybody where it is wrong; answers may quote the text to its sender."""
CONTENT = ("prompt", "reply", "title", "system prompt", "metadata")
COMMANDS = (
    ("user", "create", "new@example.com"),
    ("user", "create", "new@example.com"),
    ("user", "create", "no address"),
    ("user", "set-password", "new@example.com"),
    ("user", "set-password", "nobody@example.com"),
    ("user", "list"),
    ("user", "adopt", "new@example.com"),
    ("config", "show"),
    ("doctor",),
    ("migrate",),
)
FEW_WAYS = ("401", "404", "500", "frame", "302")
KINDS = (
    ("json", "tertulia.cli"),
    ("console", "tests.system.crashing"),
    ("console", "tertulia.cli"),
    ("json", "tests.system.crashing"),
)
"""The form of the log, and whether the server crashes now and then."""
AT_ONCE = 3
TELL_ALL = ("log_statement = 'all'", "log_min_error_statement = 'debug5'", "log_min_duration_statement = 0")


class Overheard(ServerProcess):
    """A server of whose output nothing is forgotten."""

    def __init__(self, environment: dict[str, str], folder: Path, program: str) -> None:
        super().__init__(environment, folder, program=program)
        self.name = f"{program} with {environment['TERTULIA_LOG_FORMAT']} lines"
        self.said: list[str] = []

    def _heard(self, line: bytes) -> None:
        super()._heard(line)
        self.said.append(line.decode(errors="replace"))


async def search_for_canaries(scale: float, seed: int, progress: Progress) -> Outcome:
    """The short form: fewer servers, errors of the endpoint and commands, and no log of statements."""
    long = scale >= LONG
    canaries = Canaries.made((*SECRETS, *TYPED, *CONTENT))
    async with (
        quoting(f"{canaries['reply']} is the reply") as endpoint,
        cluster(1, command=("serve", "--no-worker")) as servers,
    ):
        kinds = KINDS if long else KINDS[:2]
        made = [_server(servers, endpoint, canaries, form, program) for form, program in kinds]
        for server in made:
            progress(f"a tour of {server.name}")
            async with _running(server, canaries):
                await _tour(servers, server, canaries, WAYS if long else FEW_WAYS)
                await _processes(servers, server, canaries)
        progress("commands")
        await _commands(made[0], canaries, scale)
        canaries.hears("PostgreSQL's log", await asyncio.to_thread(_log_of, servers))
        statements = await _with_statements(servers, endpoint, canaries) if long else ""
    return _judged(canaries, endpoint, WAYS if long else FEW_WAYS, statements)


@asynccontextmanager
async def _running(server: Overheard, canaries: Canaries) -> AsyncIterator[None]:
    """One at a time, so that nobody else makes the replies."""
    await server.start()
    try:
        yield
    finally:
        await server.terminate()
        canaries.hears(f"the log of {server.name}", "".join(server.said))


def _server(servers: Cluster, endpoint: Quoting, canaries: Canaries, form: str, program: str) -> Overheard:
    environment = {
        "DATABASE_URL": servers.postgres.url.replace("postgres@", f"postgres:{canaries['database password']}@"),
        "OPENAI_API_KEY": canaries["provider key"],
        "TERTULIA_SECRET_KEY": canaries["signing key"] + secrets.token_hex(16),
        "TERTULIA_METRICS_TOKEN": canaries["metrics token"],
        "TERTULIA_AUTH": "password",
        "TERTULIA_REGISTRATION": "open",
        "TERTULIA_MAX_RETRIES": "1",
        "TERTULIA_LOG_LEVEL": "debug",
        "TERTULIA_LOG_FORMAT": form,
        "TERTULIA_ANONYMOUS_OPERATIONS_PER_ADDRESS": "0",
        "TERTULIA_SHUTDOWN_GRACE": "0",
    }
    return Overheard(environment_for(endpoint.base_url) | environment, servers.servers[0].folder, program)


async def _tour(servers: Cluster, server: Overheard, canaries: Canaries, ways: Sequence[str]) -> None:
    """Of one server, by all kinds of people."""
    http, url = servers.http, server.url
    people = owner, other, stranger = [Tourist(http, url, canaries, who) for who in ("owner", "other", "stranger")]
    watchman = Tourist(http, url, canaries, "watchman")
    owner.may_know |= set(CONTENT)
    refresh = await sign_up(owner, f"owner-{server.pid}@example.com", canaries["password"])
    await sign_up(other, f"other-{server.pid}@example.com", "the other's password")
    remember(canaries, owner, refresh)
    made = await talk(owner, canaries, ways)
    if key := (await owner.do(NEW_KEY, name="for machines")).get("secret"):
        keep(canaries, owner, "API key", key[10:])
    for tourist in (other, stranger):
        await look(tourist, *made)
        await tourist.do(RENAME, conversationId=made[0], title="mine now")
    for tourist in people:
        tourist.may_know.add("typed text")
        await go_wrong(tourist, canaries)
    await look_around(watchman, canaries["metrics token"])
    await _crash(owner, canaries)
    await _lose_the_database(servers, owner, watchman, canaries)
    await _leave(owner, refresh, canaries)


def remember(canaries: Canaries, owner: Tourist, refresh: str) -> None:
    """The claims of an access token are no secret: they say who it is for. Its signature is."""
    keep(canaries, owner, "signature", (owner.token or "").rpartition(".")[2])
    keep(canaries, owner, "refresh token", refresh)


def keep(canaries: Canaries, owner: Tourist, kind: str, secret: str) -> None:
    name = f"{kind} no. {len(canaries.of)}"
    canaries.of[name] = secret
    owner.may_know.add(name)


async def _crash(owner: Tourist, canaries: Canaries) -> None:
    """What makes `tests.system.crashing` fail; other servers just do it, or say that it is wrong."""
    await owner.do(LOGIN, email="crash-@example.com", password=canaries["password"])
    await owner.do(CREATE, title=f"crash-{canaries['title']}")
    await owner.do(NEW_KEY, name=f"crash-{canaries['title']}")
    await owner.do(RENAME, conversationId="crash-", title=canaries["title"])
    await owner.do(CHANGE, currentPassword=f"crash-{canaries['password']}", newPassword=canaries["new password"])


async def _lose_the_database(servers: Cluster, owner: Tourist, watchman: Tourist, canaries: Canaries) -> None:
    """In the middle of a reply; what is asked meanwhile cannot be answered."""
    await owner.do(SEND, text=f"{canaries['prompt']} [slow]")
    await servers.postgres.kill()
    await owner.do(SEND, text=canaries["prompt"])
    await owner.do(LOGIN, email="owner@example.com", password=canaries["password"])
    await look_around(watchman, canaries["metrics token"])
    await servers.postgres.start()

    async def ready() -> bool:
        return '"ready":true' in await watchman.request("GET", "/readyz")

    await until(ready)


async def _leave(owner: Tourist, refresh: str, canaries: Canaries) -> None:
    changed = await owner.do(CHANGE, currentPassword=canaries["password"], newPassword=canaries["new password"])
    if changed.get("accessToken"):
        owner.token, refresh = changed["accessToken"], changed["refreshToken"]
        remember(canaries, owner, refresh)
    renewed = await owner.do(REFRESH, refreshToken=refresh)
    if renewed.get("accessToken"):
        owner.token = renewed["accessToken"]
        remember(canaries, owner, renewed["refreshToken"])
    await owner.do(LOGOUT, refreshToken=refresh)
    await owner.do(DELETE, password=canaries["new password"])


async def _commands(server: Overheard, canaries: Canaries, scale: float) -> None:
    """Each command as it is meant, and with settings that are wrong about their secrets."""
    password = canaries["password"]
    for words in COMMANDS if scale >= LONG else COMMANDS[::4]:
        await _command(server, canaries, words, typed=password)
    await _command(server, canaries, ("user", "set-password", "new@example.com"), typed=password[:7])
    await asyncio.to_thread(_put_files, server.folder, canaries["database password"])
    gate, given = asyncio.Semaphore(AT_ONCE), list(wrong_settings(canaries["database password"]))
    tried: tuple[tuple[str, ...], ...] = (("serve", "--port", "0"), ("config", "show"), ("doctor",), ("user", "list"))

    async def one(words: tuple[str, ...], settings: dict[str, str]) -> None:
        async with gate:
            await _command(server, canaries, words, **settings)

    if scale >= LONG:
        await asyncio.gather(*(one(each, settings) for settings in given for each in tried))
    else:
        await asyncio.gather(*(one(tried[0], settings) for settings in given[::8]))


def _put_files(folder: Path, secret: str) -> None:
    address = f"http://me:{secret}@127.0.0.1/v1"
    (folder / "broken.toml").write_text(f'[providers.x]\nbase_url = "{address}"\nkey = "{secret}"\n')
    (folder / "not.toml").write_text(f"key {secret}\n")
    (folder / "secret").write_text(f"{secret}\n")
    (folder / "binary").write_bytes(secret.encode() + b"\xff")


def wrong_settings(secret: str) -> Iterator[dict[str, str]]:
    """Settings with a secret in them that a server cannot be started with."""
    jwt = {"TERTULIA_AUTH": "jwt", "TERTULIA_JWT_ISSUER": "x", "TERTULIA_JWT_AUDIENCE": "x"}
    in_file = {"TERTULIA_SECRET_KEY": "", "TERTULIA_SECRET_KEY_FILE": "secret"}
    for rest in ("127.0.0.1:1/x", "h:p/x", f"{secret}@127.0.0.1/x"):
        yield {"DATABASE_URL": f"postgresql://me:{secret}@{rest}"}
    yield {"DATABASE_URL": f"mysql://me:{secret}@127.0.0.1/x"}
    yield {"DATABASE_URL": f"postgres:{secret}"}
    yield {"DATABASE_URL": f"postgresql://127.0.0.1/x?password={secret}"}
    yield {"OPENAI_BASE_URL": f"ftp://me:{secret}@127.0.0.1/v1"}
    yield {"OPENAI_BASE_URL": f"http://me:{secret}@127.0.0.1:1/v1?key={secret}", "TERTULIA_PORT": "-1"}
    yield {"OPENAI_API_KEY": f"{secret}\nx", "TERTULIA_PORT": "-1"}
    yield {"TERTULIA_SECRET_KEY": secret[:20]}
    yield {"TERTULIA_SECRET_KEY": secret * 3}
    yield {"TERTULIA_METRICS_TOKEN": secret[:12]}
    yield {"TERTULIA_CONFIG": "broken.toml"}
    yield {"TERTULIA_CONFIG": "not.toml"}
    yield in_file
    yield in_file | {"TERTULIA_SECRET_KEY_FILE": "binary"}
    yield in_file | {"TERTULIA_SECRET_KEY_FILE": secret}
    yield {"TERTULIA_SECRET_KEY_FILE": "secret"}
    yield jwt | {"TERTULIA_JWT_PUBLIC_KEY": secret}
    yield jwt | {"TERTULIA_JWT_JWKS_URL": f"http://me:{secret}@127.0.0.1/"}


async def _command(
    server: Overheard, canaries: Canaries, words: tuple[str, ...], typed: str = "", **settings: str
) -> None:
    """A server that does start is ended at once."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tertulia.cli", *words),
        cwd=server.folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | server.environment | settings,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(typed.encode()), 20)
    except TimeoutError:
        process.kill()
        await process.wait()
        said = b""
    shown = " ".join(f"{name}=..." for name in settings)
    canaries.hears(f"{shown} tertulia {' '.join(words)}", said.decode(errors="replace"))


async def _processes(servers: Cluster, server: Overheard, canaries: Canaries) -> None:
    """What every user of the machine sees of processes, and every role of the database of others' queries."""
    shown = await asyncio.to_thread(Path(f"/proc/{server.pid}/cmdline").read_text)
    canaries.hears("the list of processes", shown)
    for row in await servers.rows("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()"):
        canaries.hears("pg_stat_activity", str(row["query"]))


async def _with_statements(servers: Cluster, endpoint: Quoting, canaries: Canaries) -> str:
    """What PostgreSQL's log gets when its operator has every statement logged."""
    before = len(await asyncio.to_thread(_log_of, servers))
    for setting in TELL_ALL:
        await servers.rows(f"ALTER SYSTEM SET {setting}")
    await servers.rows("SELECT pg_reload_conf()")
    server = _server(servers, endpoint, canaries, "json", "tertulia.cli")
    await server.start()
    try:
        owner = Tourist(servers.http, server.url, canaries, "owner")
        owner.may_know |= set(CONTENT)
        refresh = await sign_up(owner, "logged@example.com", canaries["password"])
        remember(canaries, owner, refresh)
        await talk(owner, canaries, WAYS)
        await _leave(owner, refresh, canaries)
    finally:
        await server.terminate()
    return (await asyncio.to_thread(_log_of, servers))[before:]


def _log_of(servers: Cluster) -> str:
    return (servers.postgres.folder / "log").read_text(errors="replace")


def _judged(canaries: Canaries, endpoint: Quoting, ways: Sequence[str], statements: str) -> Outcome:
    canaries.hears("PostgreSQL's log of statements", statements, {*CONTENT})
    found = canaries.found()
    written = sorted(name for name, _ in finds(statements, canaries.pattern(CONTENT)))
    characters = sum(len(each.text) for each in canaries.heard)
    outcome = Outcome(f"{len(canaries.of)} canaries, {len(set(endpoint.asked))} kinds of answers of the endpoint")
    outcome.figures.append(f"{characters:,} characters of {len(canaries.heard):,} texts searched")
    if statements:
        outcome.figures.append(f"PostgreSQL logs, where it is told to log statements: {', '.join(written)}")
    outcome.expect(set(endpoint.asked) >= set(ways), "not every error of the endpoint was met")
    owners = "".join(each.text for each in canaries.heard if "prompt" in each.may_hold)
    unseen = [name for name in CONTENT if canaries[name] not in owners]
    outcome.expect(not unseen, f"the owner was not shown the {unseen}: the tour went wrong")
    crashed = any("crashing" in each.source and "builtins.RuntimeError" in each.text for each in canaries.heard)
    outcome.expect(crashed, "nothing crashed")
    outcome.found(found, len(canaries.heard), "texts")
    return outcome
