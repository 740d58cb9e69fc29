"""A generation whose answer goes to the client as bytes: the fast way through, where it can be taken."""

import time

from connectors.chat_model import ServedChat
from connectors.frames import Frames
from connectors.pump import Send, pump
from connectors.stream import Relay
from pipelines.errors import BadRequest
from pipelines.generation import Generation


async def relay(generation: Generation, frames: Frames, send: Send) -> bool:
    """Ask the model and relay what it writes to `send`; note in the generation what came of it.

    False, with nothing sent, if the answer has to come as events: the chat model is not behind HTTP, does not stream
    server-sent events, or something has to be done to each delta. Raises ModelUnavailable, TooManyRequests,
    BadRequest, before anything is sent where the server says so before its first token.
    """
    chat = generation.chat
    if not isinstance(chat, ServedChat):
        return False
    request = chat.request(generation.messages, generation.options.stop, **generation.arguments())
    served = chat.served
    if not served.relayable(request):
        return False
    made = Relay(
        frames,
        served.engine.read,
        starts_in_thinking=await served.begins_in_thinking(request),
        citing=generation.citing,
        guard=generation.guard,
        limit=generation.limit(),
        failed=served.failed,
    )

    def first() -> None:
        generation.first = time.perf_counter()

    try:
        async with await served.ask(request) as answer:
            await pump(answer, made, send, first)
            if made.ended:
                await answer.finish()
    except BadRequest as error:
        if made.begun() or not served.without_extras(request, error):
            raise
        return False
    if made.separated:
        served.note_separation()
    if not (made.ended or made.over):
        raise served.unfinished()
    _note(generation, made)
    return True


def _note(generation: Generation, made: Relay) -> None:
    generation.thoughts, generation.thought_tokens = made.thoughts, made.thought_tokens
    generation.written.extend(made.answer)
    generation.answered = bool(made.answer) or (generation.guard is not None and bool(generation.guard.drifted))
    generation.cut = made.cut
    if made.usage:
        generation.note_usage(made.usage)
    generation.note_reason(made.reason)
