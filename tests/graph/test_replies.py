"""Sending, over a real server."""

from tests.serving import Serving


async def test_one_call_sends_a_message_and_waits_for_the_whole_answer(server: Serving) -> None:
    data = await server.ask(
        'mutation { sendMessage(input: {text: "Hi", waitMs: 5000}) { reply { status text } errors { message } } }'
    )
    assert data["sendMessage"] == {"reply": {"status": "COMPLETE", "text": "Hello there."}, "errors": []}
