"""A victim with a finished and a live reply, and what is known of somebody's world before and after an attack."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from domain.models import ChatChunk, ChatRequest, ToolAnswer
from domain.tasks import Task, TaskPriority, TaskStatus
from tertulia.services import TimeOrderedIds
from tests.doubles import ScriptedModel, answer, calling
from tests.letters import LETTER
from tests.security.calls import World
from tests.security.people import FEED, SEND, Person, streamed
from tests.serving import Serving

EXPORT = """{ viewer { id email displayName settings { systemPrompt } sessions { id } apiKeys { id name prefix } }
  conversations(first: 20) { nodes { id title titleSource updatedAt lastActivityAt metadata leaf { id }
    activeReplies { id } allMessages(first: 20) { nodes { id text status metadata createdAt parent { id }
      parts { ... on ToolCallPart { toolCall { id status approval { decision comment } } } } } } } }
  tasks { id title } }"""
WATCHED = """subscription ($id: ID!, $after: String) { replyStream(replyId: $id, after: $after) {
  __typename cursor ... on TextDelta { text } ... on ReplySnapshot { reply { text } }
  ... on ReplyFinished { reply { status text } } } }"""
CALLS = "query ($id: ID!) { message(id: $id) { status parts { ... on ToolCallPart { toolCall { id } } } } }"
TOOLS = {"tools": ["send_letter"]}
SECRET = "the code of the safe is 4711"


class LetterWriter(ScriptedModel):
    """Plays its scripts, but whoever offers it tools gets a letter first."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        if not request.tools:
            async for chunk in super().stream(request):
                yield chunk
            return
        asked = any(isinstance(message, ToolAnswer) for message in request.messages)
        for step in answer("Done.") if asked else calling(("send_letter", LETTER)):
            assert not isinstance(step, Exception | asyncio.Event)
            yield step


@dataclass
class Stage:
    """The victim, with a finished and a live reply, whose world attackers look for."""

    server: Serving
    victim: Person
    world: World


async def world_of(person: Person, text: str, *, live: bool = False) -> World:
    sent = await person.do(SEND, text=text, waitMs=30_000)
    settled = sent["reply"]["id"]
    reply = settled
    if live:
        more = await person.do(SEND, text="Go on.", conversationId=sent["conversation"]["id"])
        reply = more["reply"]["id"]
        async with aclosing(streamed(person.server, person.access, "sse", WATCHED, id=reply)) as events:
            async for event in events:
                if "Well" in json.dumps(event):
                    break
    tool_call = await asked_for_consent(person, conversationId=sent["conversation"]["id"], parentId=settled)
    await note(person, sent["conversation"]["id"], text)
    key, _ = await person.new_key()
    (session,) = await person.sessions()
    return World(
        sent["conversation"]["id"],
        sent["message"]["id"],
        reply,
        settled,
        session,
        key,
        person.user_id,
        person.email,
        person.refresh,
        person.password,
        tool_call,
    )


async def note(person: Person, conversation_id: str, title: str) -> None:
    """A task of the person, as a tool would note it."""
    task = Task(
        id=TimeOrderedIds().new("task"),
        user_id=person.user_id,
        conversation_id=conversation_id,
        title=title,
        description=title,
        priority=TaskPriority.LOW,
        status=TaskStatus.PENDING,
        created_at=datetime.now(UTC),
    )
    async with person.server.running.storage.write() as work:
        assert await work.tasks.add(task)
        await work.commit()


async def asked_for_consent(person: Person, **where: str) -> str:
    """The id of a tool call of a reply that waits for the person, and for nothing else."""
    reply_id = (await person.do(SEND, text="Write to Ada.", settings=TOOLS, **where))["reply"]["id"]
    async with aclosing(streamed(person.server, person.access, "sse", WATCHED, id=reply_id)) as events:
        async for _ in events:
            reply = (await person.ask(CALLS, id=reply_id))["message"]
            if reply["status"] == "AWAITING_APPROVAL":
                return str(reply["parts"][0]["toolCall"]["id"])
    raise AssertionError("it waits for nobody")


async def newest(person: Person) -> str:
    """Where the person's feed ends: another place when anything was told since."""
    async with aclosing(streamed(person.server, person.access, "sse", FEED)) as events:
        async for event in events:
            assert event["data"]["conversationEvents"]["__typename"] == "ResyncRequired"
            return str(event["data"]["conversationEvents"]["cursor"])
    raise AssertionError("a feed does not end")


async def state(person: Person) -> tuple[Any, str]:
    return await person.ask(EXPORT), await newest(person)
