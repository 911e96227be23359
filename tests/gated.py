"""A model whose replies come piece by piece as fast as their reader keeps up, so that a test needs no clock."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import accumulate

from domain.models import ChatChunk, ChatRequest, FinishChunk, RequestStarted, TextChunk
from domain.replies import FinishReason
from tests.doubles import ScriptedModel, heard


class GatedReply:
    """A piece is let out when everything before it has been seen by somebody."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.text = "".join(pieces)
        self.starts = [0, *accumulate(map(len, pieces))][:-1]
        self.gates = [asyncio.Event() for _ in pieces]
        self.seen(0)

    def seen(self, characters: int) -> None:
        for start, gate in zip(self.starts, self.gates, strict=True):
            if start <= characters:
                gate.set()


class GatedModel(ScriptedModel):
    """Answers each prompt with the reply that was put under it."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: dict[str, GatedReply] = {}

    def will_answer(self, prompt: str, pieces: Sequence[str]) -> GatedReply:
        self.replies[prompt] = GatedReply(pieces)
        return self.replies[prompt]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        reply = self.replies["".join(heard(request.messages)[-1].texts)]
        yield RequestStarted("request-1")
        for gate, piece in zip(reply.gates, reply.pieces, strict=True):
            await gate.wait()
            yield TextChunk(piece)
        yield FinishChunk(FinishReason.STOP, None, None, None)
