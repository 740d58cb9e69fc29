"""Passages with what stands around them: joined exactly, given once, and only where the window has room."""

from dataclasses import replace

from connectors.models.fake import ScriptedChat
from pipelines.answer import answer
from pipelines.budget import plan
from pipelines.neighbours import joined, with_context
from pipelines.profiles import profile_for
from pipelines.turn import Options
from pipelines.types import Hit, Message
from tests.unit.small_rag import ASKER, DictPassages, chunk, small_rag

R1 = profile_for("deepseek-r1:7b")
TEXT = "Leave is asked for in writing. Ten days at once need a reason. Carry it over until March."


def piece(n: int, start: int, end: int) -> "Hit":
    return Hit(chunk=replace(chunk(n, TEXT[start:end]), start=start, end=end), score=1 / n)


def test_what_two_passages_share_is_written_once() -> None:
    assert (
        joined([piece(1, 0, 40).chunk, piece(2, 25, 70).chunk, piece(3, 70, len(TEXT)).chunk]).replace("\n", "") == TEXT
    )


def test_a_repeated_table_header_is_not_cut_by_offsets() -> None:
    second = replace(piece(2, 30, 60).chunk, text="| day | hours |\n" + TEXT[30:60])
    assert joined([piece(1, 0, 40).chunk, second]) == f"{TEXT[:40]}\n{second.text}"


async def test_no_text_is_given_twice_and_best_hits_choose_first() -> None:
    chunks = [chunk(n, f"part {n}.") for n in range(1, 8)]
    hits = [Hit(chunk=chunks[4], score=0.4), Hit(chunk=chunks[2], score=0.9), Hit(chunk=chunks[1], score=0.3)]
    fifth, third, second = await with_context(DictPassages(chunks), hits, 2)
    assert third.context == "part 3.\npart 4."  # 2 and 5 are hits themselves
    assert fifth.context == "part 5.\npart 6.\npart 7."
    assert second.context == "part 1.\npart 2."
    assert [hit.chunk for hit in (fifth, third, second)] == [hit.chunk for hit in hits]


async def test_another_document_is_no_neighbour() -> None:
    alone = chunk(3, "alone.", "other.pdf")
    chunks = [chunk(2, "two."), replace(alone, document_id="d2"), chunk(4, "four.")]
    (hit,) = await with_context(DictPassages(chunks), [Hit(chunk=chunks[1], score=1.0)], 1)
    assert hit.context == ""


def test_neighbours_take_no_room_from_passages_or_history() -> None:
    hits = [Hit(chunk=chunk(n, "word " * 100), score=1 / n, context="word " * 900) for n in (1, 2, 3)]
    history = [Message(role="user", content="word " * 50), Message(role="assistant", content="Yes.")]
    plain = plan(
        "Why?", [replace(hit, context="") for hit in hits], history, window=4096, max_tokens=1000, thinking=None
    )
    budget = plan("Why?", hits, history, window=4096, max_tokens=1000, thinking=None)
    assert [hit.chunk.id for hit in budget.hits] == [hit.chunk.id for hit in plain.hits] == ["c1", "c2", "c3"]
    assert budget.history == plain.history == tuple(history)
    assert [bool(hit.context) for hit in budget.hits] == [True, False, False]


async def test_the_model_reads_the_neighbours_and_the_citation_stays_with_the_passage() -> None:
    parts = ("The fridge is on floor two.", "Paid leave is 20 days a year.", "It is carried over until March.")
    asked = {}
    for neighbours in (0, 1):
        chat = ScriptedChat(replies=["20 days[citation:1]."])
        rag = await small_rag(chat, *parts)
        options = Options(neighbours=neighbours)
        question = [Message(role="user", content="How many days of paid leave?")]
        events = [event async for event in answer(rag, ASKER, question, ["kb"], profile=R1, top_k=1, options=options)]
        assert events[-1].citations[0].quote == parts[1]  # type: ignore[union-attr]
        asked[neighbours] = chat.asked[0][0].text
    assert parts[1] in asked[0]
    assert parts[2] not in asked[0]
    assert "\n".join(parts) in asked[1]
