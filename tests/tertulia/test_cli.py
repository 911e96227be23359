"""The command line: what `serve` says, how starts fail, and the commands that need no server."""

import asyncio
import signal
import socket
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from tertulia import __version__
from tertulia.cli import app, greeting
from tests.doubles import ScriptedModel
from tests.patience import PATIENCE_SECONDS
from tests.providers.endpoint import WHOLE, scripted_endpoint, stream
from tests.serving import serving, settings_for
from tests.tertulia.commands import ROOT, started, tertulia

UNREACHABLE = "postgresql://me:s3cret@127.0.0.1:1/chat"
COMMANDS = {"serve", "migrate", "doctor", "schema", "config"}


@asynccontextmanager
async def serve(**environment: str) -> AsyncIterator[tuple[Process, str]]:
    """`tertulia serve` on a free port, and all that it says until it is up."""
    process = await started("serve", "--port", "0", **environment)
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readuntil(b"}\"}'\n"), PATIENCE_SECONDS)
        yield process, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def shell(command: str) -> str:
    process = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# ── serve ──


async def test_serve_says_where_it_is_and_the_command_it_proposes_works() -> None:
    async with scripted_endpoint() as endpoint:
        endpoint.replies(stream(WHOLE))
        async with serve(OPENAI_BASE_URL=endpoint.base_url, TERTULIA_MODEL="any") as (_, said):
            base = said.split("API        ")[1].split("/graphql")[0]
            assert f"{base}/graphiql" in said
            assert await shell("curl -s " + said.split("Try:  curl ")[1]) == (
                '{"data":{"sendMessage":{"reply":{"text":"Hello there","generation":{"error":null}}}}}'
            )
            async with aiohttp.ClientSession() as http, http.get(f"{base}/readyz") as response:
                assert response.status == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_without_a_traceback(how: signal.Signals) -> None:
    async with scripted_endpoint() as endpoint, serve(OPENAI_BASE_URL=endpoint.base_url) as (process, _):
        process.send_signal(how)
        _, err = await process.communicate()
    assert b"stopping" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("listens", "shown"),
    [
        (("127.0.0.1", 8000), "http://127.0.0.1:8000/graphql"),
        (("0.0.0.0", 80), "http://127.0.0.1:80/graphql"),
        (("::1", 9000, 0, 0), "http://[::1]:9000/graphql"),
    ],
)
def test_the_greeting_shows_an_address_that_can_be_opened(listens: tuple[str, int], shown: str) -> None:
    assert shown in greeting(listens)


async def test_a_port_in_use_gives_a_sentence(taken_port: int) -> None:
    ended = CliRunner().invoke(app, ["serve", "--port", str(taken_port)])
    assert ended.exit_code == 1
    assert ended.stderr == (
        f"tertulia: cannot listen on 127.0.0.1 port {taken_port}: Address already in use. "
        "Choose another with --host and --port, or TERTULIA_HOST and TERTULIA_PORT.\n"
    )


async def test_a_server_on_sqlite_that_shall_not_make_replies_is_refused(tmp_path: Path) -> None:
    ended = await tertulia("serve", "--no-worker", "--port", "0", DATABASE_URL=f"sqlite:///{tmp_path}/test.db")
    assert ended.code == 1
    assert "TERTULIA_WORKER is false, but SQLite serves one process at a time" in ended.err
    assert "Traceback" not in ended.err


async def test_a_worker_says_under_which_name_it_works_and_ends_in_good_order(tmp_path: Path) -> None:
    async with scripted_endpoint() as endpoint:
        environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "OPENAI_BASE_URL": endpoint.base_url}
        process = await started("worker", TERTULIA_LOG_FORMAT="json", **environment)
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.readuntil(b'"started"'), PATIENCE_SECONDS)
        process.terminate()
        _, rest = await process.communicate()
    assert process.returncode == 0
    assert b"work_" in said + rest
    assert b"Traceback" not in rest


# ── the database ──


async def test_a_second_server_on_a_sqlite_file_is_refused_and_other_commands_work_beside_the_first(
    tmp_path: Path,
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    async with serving(settings_for(tmp_path), ScriptedModel()) as first:
        second, worker, migrate = await asyncio.gather(
            tertulia("serve", "--port", "0", **environment),
            tertulia("worker", **environment),
            tertulia("migrate", **environment),
        )
        doctor, show = [
            await asyncio.to_thread(CliRunner().invoke, app, command, env=environment)
            for command in (["doctor"], ["config", "show"])
        ]
        assert (await first.ask("{ server { version } }"))["server"] == {"version": __version__}
    for refused in (second, worker):
        assert refused.code == 1
        assert f"Another server already uses {tmp_path}/test.db: SQLite serves one at a time." in refused.err
        assert "Traceback" not in refused.err
    assert (migrate.code, migrate.err) == (0, "")
    assert "the database is at revision" in doctor.stdout
    assert (show.exit_code, show.stderr) == (0, "")


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"], ["doctor"]])
@pytest.mark.parametrize(
    ("url", "reason"),
    [(UNREACHABLE, "Connect"), ("sqlite:///a-file/chat.db", "a-file"), ("sqlite:///a-file", "file is not a database")],
    ids=["unreachable", "unwritable", "not a database"],
)
def test_a_database_that_cannot_be_used_gives_a_sentence(command: list[str], url: str, reason: str) -> None:
    Path("a-file").write_text("This is no database, and no folder either.\n" * 100)
    environment = {"DATABASE_URL": url, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    ended = CliRunner().invoke(app, command, env=environment)
    assert ended.exit_code == 1
    sentences = [line for line in ended.output.splitlines() if "DATABASE_URL" in line]
    assert len(sentences) == 1
    assert reason in sentences[0]
    assert "Traceback" not in ended.output
    assert "s3cret" not in ended.output


def test_a_database_of_a_newer_version_gives_a_sentence() -> None:
    assert CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": "sqlite:///chat.db"}).exit_code == 0
    with sqlite3.connect("chat.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    ended = CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": "sqlite:///chat.db"})
    assert ended.exit_code == 1
    assert "cannot be used: No such revision or branch '9999'." in ended.stderr


def test_migrate_makes_the_database_and_says_its_revision() -> None:
    ended = CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": "sqlite:///new/folder/chat.db"})
    assert ended.stdout.startswith("The database is at revision ")
    assert Path("new/folder/chat.db").exists()


# ── doctor ──


def doctor(**environment: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["doctor"], env=environment)
    return ended.exit_code, ended.stdout


async def test_doctor_finds_nothing_to_mend_before_the_first_start() -> None:
    async with scripted_endpoint() as endpoint:
        environment = {"OPENAI_BASE_URL": endpoint.base_url, "TERTULIA_MODEL": "llama3.2"}
        _, said = await asyncio.to_thread(lambda: doctor(**environment))
    assert "ok      listens on 127.0.0.1 port 8000" in said
    assert "ok      .data/tertulia.db does not exist yet; the first start makes it" in said
    assert "ok      the endpoint openai answers; models on offer: llama3.2" in said


def test_doctor_notices_an_endpoint_where_nobody_listens() -> None:
    code, said = doctor(OPENAI_BASE_URL="http://127.0.0.1:1/v1", TERTULIA_MODEL="llama3.2")
    assert code == 1
    assert "problem the endpoint openai (http://127.0.0.1:1/v1) cannot be reached" in said


def test_doctor_says_what_is_wrong_and_fails() -> None:
    code, said = doctor(
        TERTULIA_HOST="0.0.0.0", DATABASE_URL=UNREACHABLE, TERTULIA_MODEL="huge", TERTULIA_CONFIG="absent.toml"
    )
    assert code == 1
    problems = [line for line in said.splitlines() if line.startswith("problem ")]
    assert [next(name for name in ("HOST", "DATABASE_URL", "CONFIG") if name in line) for line in problems[:3]] == [
        "HOST",
        "DATABASE_URL",
        "CONFIG",
    ]


def test_doctor_proposes_migrate_for_an_empty_database() -> None:
    Path("chat.db").touch()
    code, said = doctor(DATABASE_URL="sqlite:///chat.db")
    assert code == 1
    assert "problem the database is at revision none; run `tertulia migrate`" in said


# ── the rest ──


def test_schema_check_accepts_what_export_wrote_and_refuses_a_changed_file() -> None:
    assert CliRunner().invoke(app, ["schema", "export", "api.graphql"]).exit_code == 0
    assert CliRunner().invoke(app, ["schema", "check", "api.graphql"]).exit_code == 0
    Path("api.graphql").write_text(Path("api.graphql").read_text() + "scalar Extra\n")
    changed = CliRunner().invoke(app, ["schema", "check", "api.graphql"])
    assert changed.exit_code == 1
    assert "api.graphql is not what the code prints; run `tertulia schema export`" in changed.stderr


def test_schema_check_accepts_the_file_of_the_repository() -> None:
    assert CliRunner().invoke(app, ["schema", "check", str(ROOT / "schema.graphql")]).exit_code == 0


def test_version_and_help_need_no_settings() -> None:
    environment = {"TERTULIA_PORT": "eight"}
    assert CliRunner().invoke(app, ["--version"], env=environment).stdout == f"tertulia {__version__}\n"
    listed = CliRunner().invoke(app, ["--help"], env=environment).stdout
    assert {word for word in listed.split() if word in COMMANDS} == COMMANDS


async def test_uvicorn_started_by_hand_gives_the_same_sentence() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "tertulia.main:app", "--port", "0"),
        env={"PYTHONPATH": str(ROOT), "TERTULIA_PORT": "eight"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().startswith("tertulia: TERTULIA_PORT is 'eight', but")
