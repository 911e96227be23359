"""The `tertulia` command."""

import asyncio
import gc
import os
import signal
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvicorn
from fastapi import FastAPI

from graph.schema import sdl
from persistence import schema as migrations
from persistence.database import Database
from tertulia import __version__, catalogue, tool_commands, user_commands
from tertulia.databases import usable_database
from tertulia.doctor import examine, without_password
from tertulia.http import GRAPHIQL
from tertulia.main import create_app
from tertulia.plugins import load_registry
from tertulia.safety import check_safety
from tertulia.services import Running, open_services
from tertulia.serving import drop_unread_connections, uvicorn_config
from tertulia.settings import Settings, SettingsError, load_settings, variable
from tertulia.telemetry import configure_logging
from tertulia.terminal import fail

EXIT_SECONDS = 33.0
UNREADY_SECONDS = 3.0
"""What proxies need to notice that a server is not ready any more: they ask every second or two."""
log = structlog.get_logger("tertulia")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # which may hold secrets
    help="A conversation server for language models.",
)
schema_app = typer.Typer(no_args_is_help=True, help="The GraphQL schema.")
config_app = typer.Typer(no_args_is_help=True, help="The settings.")
app.add_typer(schema_app, name="schema")
app.add_typer(config_app, name="config")
app.add_typer(user_commands.app, name="user")
app.command()(tool_commands.tools)

SchemaFile = Annotated[Path, typer.Argument(help="The file that holds the printed schema.")]


def settings_or_exit(**overrides: object) -> Settings:
    try:
        return load_settings(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        fail(str(error))


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if show:
        typer.echo(f"tertulia {__version__}")
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (TERTULIA_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for any (TERTULIA_PORT).")] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Leave making replies to `tertulia worker` and other servers.")
    ] = False,
) -> None:
    """Start the server."""
    settings = settings_or_exit(host=host, port=port, worker=False if no_worker else None)
    try:
        check_safety(settings)
        if providers := catalogue.configured_providers(settings, load_registry(settings).providers):
            catalogue.with_default(providers, settings.model)
    except SettingsError as error:
        fail(str(error))
    listener = _listener(settings)
    api = create_app(settings)
    server = Server(uvicorn_config(api), api)
    try:
        server.run(sockets=[listener])
    except SystemExit as error:  # the log has said why it did not start
        raise typer.Exit(1) from error


@app.command()
def worker() -> None:
    """Make replies, without an API: beside servers on the same PostgreSQL."""
    settings = settings_or_exit(worker=True)
    configure_logging(settings)
    try:
        asyncio.run(_work(settings))
    except SettingsError as error:
        fail(str(error))


async def _work(settings: Settings) -> None:
    stopped = asyncio.Event()
    async with open_services(settings) as running:

        def stop() -> None:
            if stopped.is_set():  # a second Ctrl-C
                running.worker.hurry()
            stopped.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        log.info("started", version=__version__, worker=running.worker.owner)
        spare_the_start()
        failed = asyncio.create_task(running.worker.failure.wait())
        await asyncio.wait([asyncio.create_task(stopped.wait()), failed], return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping", live=running.worker.live)
        exit_in_time()
    if failed.done():
        raise typer.Exit(1)


def spare_the_start() -> None:
    """Tell the garbage collector that what the start has made is there for good.

    It is 200,000 objects and more, most of them of the libraries; to look through them again and again takes a third of
    the time of a busy server. What requests make is mostly freed without the collector, so it comes less often too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def exit_in_time() -> None:
    """Whatever does not end (a database that says nothing, say) must not keep the process from ending.

    Nothing is lost by it: what was shown is stored, and what is not done is taken over.
    """

    def give_up() -> None:
        log.error("could not stop in good order; others take over what is left")
        os._exit(1)

    asyncio.get_running_loop().call_later(EXIT_SECONDS, give_up)


class Server(uvicorn.Server):
    """Says where it is and what to try first, once it listens; and what it waits for when it is to stop.

    A server that is to stop goes on serving while replies end or are handed over: it is not ready any more, so
    proxies send new requests elsewhere. Then it lets go of its sockets and streams, whose readers resume elsewhere.
    """

    def __init__(self, config: uvicorn.Config, api: FastAPI) -> None:
        super().__init__(config)
        self._api = api

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        exit_in_time()
        running: Running = self._api.state.running
        grace = running.settings.shutdown_grace
        if live := running.worker.live:
            typer.echo(f"\n  Stopping: waiting up to {grace:g} s for {live} replies that are being written.", err=True)
        draining = asyncio.create_task(self._drain(running))
        while not draining.done():
            if self.force_exit:  # a second Ctrl-C
                running.worker.hurry()
            await asyncio.wait([draining], timeout=0.1)
        self._api.state.router.end_streams()
        await super().shutdown(sockets)

    async def _drain(self, running: Running) -> None:
        """Until proxies have seen that this server is not ready, it serves whom they still send."""
        await running.worker.drain(running.settings.shutdown_grace, 0 if running.storage.embedded else UNREADY_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        spare_the_start()
        if self.started and sockets:
            typer.echo(greeting(sockets[0].getsockname()))


def greeting(address: tuple[str, int]) -> str:
    host, port = address[0], address[1]
    if ip_address(host).is_unspecified:
        host = "127.0.0.1"
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    built = (GRAPHIQL / "index.html").exists()
    hint = "open it, press the play button in the tab Send, then in the tab Stream" if built else "(not built)"
    question = 'text: \\"What is the capital of France?\\", waitMs: 30000'
    answer = "reply { text generation { error { message } } }"
    query = f"mutation {{ sendMessage(input: {{{question}}}) {{ {answer} }} }}"
    return (
        f"\n  Tertulia {__version__} is up.\n\n"
        f"  GraphiQL   {base}/graphiql     {hint}\n"
        f"  API        {base}/graphql\n\n"
        f"  Try:  curl {base}/graphql -H 'content-type: application/json' \\\n"
        f'          -d \'{{"query": "{query}"}}\'\n'
    )


def _listener(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.set_inheritable(True)
        drop_unread_connections(listener)
    except OSError as error:
        fail(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. "
            "Choose another with --host and --port, or TERTULIA_HOST and TERTULIA_PORT."
        )
    return listener


@app.command()
def migrate() -> None:
    """Bring the database up to date."""
    settings = settings_or_exit()

    async def run() -> str | None:
        database = Database(settings.database_url)
        try:
            await migrations.upgrade(database)
            return await migrations.current_revision(database)
        finally:
            await database.close()

    try:
        with usable_database():
            typer.echo(f"The database is at revision {asyncio.run(run())}.")
    except SettingsError as error:
        fail(str(error))


@schema_app.command("export")
def schema_export(file: SchemaFile = Path("schema.graphql")) -> None:
    """Print the schema into a file."""
    file.write_text(sdl())
    typer.echo(f"Wrote {file}.")


@schema_app.command("check")
def schema_check(file: SchemaFile = Path("schema.graphql")) -> None:
    """Fail when the file is not what the code prints."""
    if not file.exists() or file.read_text() != sdl():
        fail(f"{file} is not what the code prints; run `tertulia schema export`.")
    typer.echo(f"{file} is up to date.")


@config_app.command("show")
def config_show() -> None:
    """Every setting with its value and meaning, as a .env file; secrets are masked."""
    settings = settings_or_exit()
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "database_url":
            url = Database(value).url.set(drivername=value.split(":")[0])
            value = url.render_as_string(hide_password=True)
        if name == "openai_base_url" and value is not None:
            value = without_password(value)
        shown = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        typer.echo(f"# {field.description}")
        typer.echo(f"{'# ' if shown == '' else ''}{variable(name)}={shown}")


@app.command()
def doctor() -> None:
    """Look at everything the server needs, and say what is wrong and how to mend it."""
    settings = settings_or_exit()
    findings = asyncio.run(examine(settings))
    for good, text in findings:
        typer.secho("ok      " if good else "problem ", fg="green" if good else "red", nl=False)
        typer.echo(text)
    if not all(good for good, _ in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
