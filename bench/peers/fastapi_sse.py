"""FastAPI and the OpenAI SDK over server-sent events: a reply is the answer to one POST, and nothing is stored.

`python -m bench.peers.fastapi_sse PORT`. `POST /chat {"text": ...}` answers with one `data: {"text": ...}` per token,
`data: [DONE]` last. It does less than the others: a reply ends with its connection, and nobody else can read it.
"""

import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI()
client = AsyncOpenAI()


class Message(BaseModel):
    text: str


async def events(text: str) -> AsyncIterator[str]:
    stream = await client.chat.completions.create(
        model="bench", messages=[{"role": "user", "content": text}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (piece := chunk.choices[0].delta.content):
            yield f"data: {json.dumps({'text': piece})}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/chat")
async def chat(message: Message) -> StreamingResponse:
    return StreamingResponse(events(message.text), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
