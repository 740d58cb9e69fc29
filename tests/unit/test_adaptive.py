"""Decisive evidence, by the scores of both legs."""

import pytest

from connectors.models.fake import ScriptedChat
from pipelines.adaptive import decisive
from pipelines.answer import answer
from pipelines.profiles import profile_for
from pipelines.turn import Options
from pipelines.types import Hit, Message
from tests.unit.small_rag import ASKER, chunk, small_rag


def hits(*legs: tuple[float | None, float | None]) -> list[Hit]:
    return [Hit(chunk=chunk(n, "x"), score=1 / n, dense=d, lexical=w) for n, (d, w) in enumerate(legs, 1)]


@pytest.mark.parametrize(
    ("legs", "is_decisive"),
    [
        ([(0.90, 16.0), (0.86, 9.0), (0.85, None)], True),
        ([(0.90, 16.0), (0.86, 9.0), (0.85, 15.0)], False),  # another passage has as many of the words
        ([(0.90, 16.0), (0.89, 9.0)], False),  # another one means as much
        ([(0.86, 16.0), (0.90, 2.0)], False),  # the legs disagree
        ([(0.90, None), (0.80, 9.0)], False),
        ([(None, 16.0), (0.80, 9.0)], False),
        ([(0.90, 16.0), (0.80, None)], False),
        ([(0.90, 16.0)], False),
        ([], False),
    ],
)
def test_decisive(legs: list[tuple[float | None, float | None]], is_decisive: bool) -> None:
    assert decisive(hits(*legs)) is is_decisive


@pytest.mark.parametrize(
    ("options", "skipped"),
    [
        (Options(adaptive=True), True),
        (Options(), False),
        (Options(adaptive=True, thinking=True), False),
        (Options(adaptive=True, thinking=False), True),
    ],
)
async def test_a_look_up_skips_thinking_only_where_it_may(options: Options, skipped: bool) -> None:
    chat = ScriptedChat(replies=["25 days [citation:1]."])
    rag = await small_rag(chat, "Annual leave is 25 days for full-time staff.", "Annual parking costs 10.")
    question = [Message(role="user", content="How many days of annual leave for full-time staff?")]
    events = answer(rag, ASKER, question, ["kb"], profile=profile_for("deepseek-r1:7b"), options=options)
    assert [event async for event in events]
    assert (chat.arguments[0].get("thinking") is False) == skipped
