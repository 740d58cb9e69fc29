"""Sharing the context window between passages, history, thinking and answer, so that no engine cuts in silence.

Tokens are estimated from the characters, on the high side: asking the engine's tokenizer would cost a round trip for
each text, and the reserve is cheaper.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipelines.errors import BadRequest
from pipelines.types import Hit, Message

#: tokens for what the chat template adds to each message
MESSAGE_TOKENS = 8
#: tokens of a search template without its passages
TEMPLATE_TOKENS = 650
#: share of the window an answer may take at most, thinking included
COMPLETION_SHARE = 0.5
#: share of what is left for the prompt that earlier turns may take beside passages
HISTORY_SHARE = 0.25

_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What fits."""

    hits: tuple[Hit, ...]
    history: tuple[Message, ...]
    #: tokens the engine may generate, thinking included
    max_tokens: int
    #: tokens of these that thinking may take
    thinking: int
    warnings: tuple[str, ...] = field(default=())


def estimate_tokens(text: str) -> int:
    """Tokens of a text in a vocabulary of the R1 family, rather too many than too few."""
    wide = 0 if text.isascii() else len(_WIDE.findall(text))
    return wide + (len(text) - wide + 2) // 3


def message_tokens(message: Message) -> int:
    """Tokens of a turn, its calls of tools and the template's share included."""
    called = sum(estimate_tokens(call.name + call.arguments) + MESSAGE_TOKENS for call in message.tool_calls)
    return estimate_tokens(message.content) + estimate_tokens(message.reasoning) + called + MESSAGE_TOKENS


def piece_tokens(text: str) -> int:
    """Tokens of a streamed piece: one, unless it is too long for one because an engine joins several."""
    if text.isascii():
        return ascii_tokens(len(text))
    return 1 if len(text) <= 6 else estimate_tokens(text)


def ascii_tokens(length: int) -> int:
    """The same for so many characters of ASCII."""
    return 1 if length <= 18 else (length + 2) // 3


def plan(
    question: str,
    hits: Sequence[Hit],
    history: Sequence[Message],
    *,
    window: int,
    max_tokens: int,
    thinking: int | None,
    beside: int = 0,
) -> Budget:
    """Choose what goes into a window of `window` tokens: the question always, then passages, then history.

    `thinking` is a wished limit of thinking tokens; whatever it is, a part of `max_tokens` stays for the answer.
    `beside` are tokens of what goes along with the question in any case: tools, and their results since it was asked.
    Raises BadRequest if these alone are too long.
    """
    completion = max(1, min(max_tokens, int(window * COMPLETION_SHARE)))
    needed = estimate_tokens(question) + beside
    room = window - completion - needed - MESSAGE_TOKENS - (TEMPLATE_TOKENS if hits else 0)
    if room < 0:
        completion = max(1, completion + room)
        room = 0
        if completion < min(max_tokens, 64):
            what = "question, tools and their results have" if beside else "the question has"
            raise BadRequest(
                f"{what} about {needed} tokens, too many for a window of {window}. "
                "Shorten it, add it as a document, or use a model with a larger window"
            )
    kept, used = _passages(hits, room)
    turns = _history(history, min(room - used, int(room * HISTORY_SHARE) if hits else room))
    kept = _with_neighbours(kept, room - used - sum(estimate_tokens(turn.content) + MESSAGE_TOKENS for turn in turns))
    warnings = []
    if len(kept) < len(hits):
        warnings.append(
            f"{len(hits) - len(kept)} of {len(hits)} passages left out: the window of {window} tokens is full"
        )
    if len(turns) < len(history):
        warnings.append(f"{len(history) - len(turns)} earlier messages left out: the window of {window} tokens is full")
    if completion < max_tokens:
        warnings.append(f"answer limited to {completion} tokens instead of {max_tokens}: the window has {window}")
    limit = completion - answer_reserve(completion)
    return Budget(
        hits=kept,
        history=turns,
        max_tokens=completion,
        thinking=limit if thinking is None else max(0, min(thinking, limit)),
        warnings=tuple(warnings),
    )


def answer_reserve(completion: int) -> int:
    """Tokens of a completion that thinking may not have: a quarter, 64 to 1,024 of them, at most half."""
    return min(max(64, min(1024, completion // 4)), max(1, completion // 2))


def _passages(hits: Sequence[Hit], room: int) -> tuple[tuple[Hit, ...], int]:
    """The best passages that fit, in the order given, and their tokens; the best one is shortened if it must be."""
    kept: set[int] = set()
    used = 0
    for i in sorted(range(len(hits)), key=lambda i: -hits[i].score):
        need = _passage_tokens(hits[i])
        if used + need <= room:
            kept.add(i)
            used += need
    if not kept and hits and room > 96:
        best = max(hits, key=lambda hit: hit.score)
        text = best.chunk.text[: max(32, (room - 64) * len(best.chunk.text) // estimate_tokens(best.chunk.text))]
        return (replace(best, chunk=replace(best.chunk, text=text + " …")),), room
    return tuple(hit for i, hit in enumerate(hits) if i in kept), used


def _with_neighbours(hits: Sequence[Hit], room: int) -> tuple[Hit, ...]:
    """Hits with their context where there is room for it, the best first; never at the cost of passage or history."""
    kept: dict[str, Hit] = {}
    for hit in sorted(hits, key=lambda each: -each.score):
        extra = estimate_tokens(hit.context) - estimate_tokens(hit.chunk.text) if hit.context else 0
        fits = 0 < extra <= room
        room -= extra if fits else 0
        kept[hit.chunk.id] = hit if fits or not hit.context else replace(hit, context="")
    return tuple(kept[hit.chunk.id] for hit in hits)


def _passage_tokens(hit: Hit) -> int:
    return estimate_tokens(hit.chunk.text) + estimate_tokens(hit.chunk.document) + 20


def _history(history: Sequence[Message], room: int) -> tuple[Message, ...]:
    """The latest turns that fit, beginning with a user's."""
    kept: list[Message] = []
    for message in reversed(history):
        room -= message_tokens(message)
        if room < 0:
            break
        kept.append(message)
    while kept and kept[-1].role in ("assistant", "tool"):
        kept.pop()
    return tuple(reversed(kept))
