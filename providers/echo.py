"""A stand-in for a language model where none can be had: it says what it is and repeats what it was told.

Follows the same contract as the real one, so that everything else can be tried without any model.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from domain.conversations import Role
from domain.models import ChatChunk, ChatRequest, FinishChunk, Model, PromptMessage, RequestStarted, TextChunk
from domain.replies import FinishReason
from providers.errors import unknown_model

ECHO_MODEL = Model(name="echo", provider="echo", title="Echo (no language model)", is_default=True)

_ANSWER = """I am not a language model: I only repeat what I am told, because no model is configured here. \
To talk to a real one, set OPENAI_API_KEY, or OPENAI_BASE_URL for any compatible endpoint, and start the server again; \
`make run` installs a small demo model on platforms that have it.

You said: {said}"""


class EchoChatModel:
    """Answers word by word with `pause` seconds between two words."""

    def __init__(self, *, pause: float = 0.02) -> None:
        self._pause = pause

    def models(self) -> Sequence[Model]:
        return (ECHO_MODEL,)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """See ChatModel. An unfinished answer is gone on with where it is the beginning of what is said here."""
        if request.model != ECHO_MODEL.name:
            raise unknown_model(request.model)
        yield RequestStarted(request_id=None)
        rest = _ANSWER.format(said=_last_said(request)).removeprefix(request.unfinished)
        for word in re.findall(r"\s*\S+\s*$|\s*\S+|\s+", rest):
            await asyncio.sleep(self._pause)
            yield TextChunk(word)
        yield FinishChunk(FinishReason.STOP, usage=None, response_model=ECHO_MODEL.name, completion_id=None)


def _last_said(request: ChatRequest) -> str:
    spoken = (message for message in request.messages if isinstance(message, PromptMessage))
    said = [message for message in spoken if message.role is Role.USER]
    return "\n\n".join(said[-1].texts) if said else "nothing."
