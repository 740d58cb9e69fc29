"""Answering, over a scripted model and indexes in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from connectors.models.fake import ScriptedChat
from pipelines import phrases
from pipelines.answer import answer
from pipelines.budget import answer_reserve, estimate_tokens, plan
from pipelines.chain import chain
from pipelines.errors import BadRequest
from pipelines.profiles import profile_for
from pipelines.rag import Rag
from pipelines.turn import Options, look_up
from pipelines.types import Finish, Hit, Message, Reasoning, Sources, Text
from tests.unit.small_rag import ASKER, chunk, small_rag

LEAVE = "Employees have 20 days of paid leave a year. Leave is requested three days before."
COFFEE = "The coffee machine is on the second floor. Milk is in the fridge."
YUUKYUU = "有給休暇は年間20日です。申請は3日前までに行います。"
NIANJIA = "员工每年享有二十天年假。请假须提前三天申请。"
R1 = profile_for("deepseek-r1:7b")
STAND_IN = profile_for("smollm2")


@dataclass
class Answered:
    """The events of one answer, collected."""

    sources: tuple[Hit, ...]
    thinking: str
    text: str
    finish: Finish


async def ask(
    rag: Rag, question: str | Sequence[Message], knowledge_bases: Sequence[str] = ("kb",), **options: Any
) -> Answered:
    messages = [Message(role="user", content=question)] if isinstance(question, str) else question
    events = [event async for event in answer(rag, ASKER, messages, knowledge_bases, **{"profile": R1, **options})]
    first, last = events[0], events[-1]
    assert isinstance(first, Sources)
    assert isinstance(last, Finish)
    return Answered(
        sources=first.hits,
        thinking="".join(event.text for event in events if isinstance(event, Reasoning)),
        text="".join(event.text for event in events if isinstance(event, Text)),
        finish=last,
    )


async def test_a_cited_answer() -> None:
    chat = ScriptedChat(
        replies=["<think>\nLeave, 20.\n</think>\n\nYou have 20 days[citation:1]. Ask early.[citation:9]"]
    )
    found = await ask(await small_rag(chat, COFFEE, LEAVE), "How many days of paid leave?", top_k=1)
    assert found.thinking == "Leave, 20.\n"
    assert found.text == "You have 20 days[1]. Ask early."
    (citation,) = found.finish.citations
    assert (citation.n, citation.chunk_id, citation.page) == (1, "c2", 2)
    assert citation.quote == "Employees have 20 days of paid leave a year."
    assert found.finish.warnings == ("1 citations of passages that do not exist were dropped",)
    assert not found.finish.abstained
    assert list(found.finish.timings) == ["retrieve", "first_token", "total"]
    assert found.finish.usage.reasoning > 0


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How many days?", "# The user's message:"),
        ("有給は何日ですか", "# ユーザーのメッセージ："),
        ("年假有多少天？", "# 用户的消息："),
    ],
)
async def test_the_prompt_is_in_the_language_of_the_question_and_ends_with_it(question: str, heading: str) -> None:
    chat = ScriptedChat()
    await ask(await small_rag(chat, LEAVE, YUUKYUU, NIANJIA), question)
    (messages,) = chat.asked
    assert [message.type for message in messages] == ["human"]
    prompt = messages[0].text
    assert prompt.endswith(f"{heading}\n{question}")
    assert "[webpage 1 begin]handbook.pdf, p. " in prompt


async def test_nothing_found_abstains_in_the_language_of_the_question() -> None:
    chat = ScriptedChat()
    rag = await small_rag(chat)
    for question, language in (("How many days?", "en"), ("何日ですか", "ja"), ("有多少天？", "zh")):
        found = await ask(rag, question)
        assert found.text == phrases.NOTHING_FOUND[language]  # type: ignore[index]
        assert found.finish.abstained
    assert chat.asked == []


async def test_a_model_that_says_so_abstains() -> None:
    chat = ScriptedChat(replies=["None of the search results answers this."])
    assert (await ask(await small_rag(chat, COFFEE), "Who is the king?")).finish.abstained


@pytest.mark.parametrize(
    ("question", "language", "quote", "n_page"),
    [
        ("How many days of paid leave do employees have?", "en", "Employees have 20 days of paid leave a year.", 2),
        ("有給休暇は年間何日ですか", "ja", "有給休暇は年間20日です。", 3),
        ("员工每年享有多少天年假？", "zh", "员工每年享有二十天年假。", 4),
    ],
)
async def test_the_stand_in_quotes_and_never_speaks(question: str, language: Any, quote: str, n_page: int) -> None:
    chat = ScriptedChat(replies=["babble"])
    found = await ask(await small_rag(chat, COFFEE, LEAVE, YUUKYUU, NIANJIA), question, profile=STAND_IN)
    assert chat.asked == []
    assert found.text.startswith(phrases.QUOTES[language])
    assert f"\n\n> {quote}" in found.text
    assert found.text.endswith(phrases.STAND_IN[language])
    assert f"`{phrases.PULL}`" in found.text
    cited = found.finish.citations
    assert any(citation.quote.startswith(quote) and citation.page == n_page for citation in cited)
    for citation in found.finish.citations:
        assert found.sources[citation.n - 1].chunk.id == citation.chunk_id


async def test_the_stand_in_without_a_knowledge_base_says_how_to_get_a_model() -> None:
    chat = ScriptedChat(replies=["babble"])
    found = await ask(await small_rag(chat), "你是谁？", [], profile=STAND_IN)
    assert found.text == phrases.STAND_IN_CHAT["zh"]


async def test_plain_chat_keeps_brackets() -> None:
    chat = ScriptedChat(replies=["An array: a[1] and [2]."])
    assert (await ask(await small_rag(chat), "Hi", [])).text == "An array: a[1] and [2]."


CONVERSATION = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="How many days of paid leave are there?"),
    Message(role="assistant", content="<think>\nold thoughts\n</think>\n\n20 days [1]."),
    Message(role="user", content="And how early must it be requested?"),
    Message(role="assistant", content='<details type="reasoning">old thoughts</details>Three days.'),
    Message(role="user", content="By whom?"),
]


async def test_old_thinking_is_not_sent_and_a_short_question_is_looked_up_with_the_one_before() -> None:
    chat = ScriptedChat()
    rag = await small_rag(chat, LEAVE)
    await ask(rag, CONVERSATION)
    (messages,) = chat.asked
    assert "old thoughts" not in "".join(message.text for message in messages)
    assert [message.type for message in messages] == ["system", "human", "ai", "human", "ai", "human"]
    assert look_up("By whom?", CONVERSATION[:5]) == "And how early must it be requested?\nBy whom?"
    assert look_up("By whom?", []) == "By whom?"


async def test_r1_0528_gets_its_own_system_text() -> None:
    chat = ScriptedChat()
    await ask(
        await small_rag(chat),
        "Hi",
        [],
        profile=profile_for("DeepSeek-R1-0528"),
        options=Options(today=date(2025, 5, 28)),
    )
    assert chat.asked[0][0].text == "该助手为DeepSeek-R1，由深度求索公司创造。\n今天是2025年5月28日。"


@pytest.mark.parametrize("messages", [[], [Message(role="system", content="x")], [Message(role="user", content="  ")]])
async def test_no_question(messages: list[Message]) -> None:
    with pytest.raises(BadRequest, match="no question"):
        await ask(await small_rag(ScriptedChat()), messages)


# --- an answer always survives ---


async def test_thinking_over_its_limit_is_ended_and_answered() -> None:
    chat = ScriptedChat(replies=["<think>\n" + "hm " * 3000, "It is 20 days [citation:1]."])
    found = await ask(await small_rag(chat, LEAVE), "How many days?", max_tokens=400)
    assert found.text == "It is 20 days [1]."
    assert found.finish.reason == "stop"
    limit = 400 - answer_reserve(400)
    assert limit <= found.finish.usage.reasoning <= limit * 1.1 + 17
    assert "thinking was ended" in found.finish.warnings[0]
    thoughts = chat.asked[1][-1].additional_kwargs["reasoning_content"]
    assert thoughts.endswith(phrases.ENOUGH["en"])


async def test_a_thinking_budget_is_kept() -> None:
    chat = ScriptedChat(replies=["<think>\n" + "hm " * 3000, "20 [citation:1]."])
    found = await ask(
        await small_rag(chat, LEAVE), "How many days?", max_tokens=2000, options=Options(thinking_budget=100)
    )
    assert chat.arguments[0]["thinking_budget"] == 100
    assert found.finish.usage.reasoning <= 100 * 1.1 + 17
    assert found.text == "20 [1]."


async def test_thinking_cut_by_the_engine_is_continued() -> None:
    chat = ScriptedChat(replies=["<think>\n" + "hm " * 40, "20 [citation:1]."])
    found = await ask(await small_rag(chat, LEAVE), "How many days?", max_tokens=20)
    assert found.text == "20 [1]."


async def test_nothing_to_show_is_said_in_words() -> None:
    chat = ScriptedChat(replies=["<think>\n" + "hm " * 3000, ""])
    found = await ask(await small_rag(chat, LEAVE), "何日ですか", max_tokens=300)
    assert found.text == phrases.CUT_WHILE_THINKING["ja"].format(tokens=300)
    assert found.finish.reason == "length"
    chat = ScriptedChat(replies=["<think>\nNothing to say.\n</think>\n\n"])
    found = await ask(await small_rag(chat, LEAVE), "How many days?")
    assert (found.text, found.finish.reason) == (phrases.EMPTY["en"], "stop")


# --- the window ---


def hits(count: int, words: int = 100) -> list[Hit]:
    return [Hit(chunk=chunk(n, "word " * words), score=1 / n) for n in range(1, count + 1)]


def test_passages_that_do_not_fit_are_left_out_and_named() -> None:
    budget = plan("Why?", hits(20, 200), [], window=4096, max_tokens=1000, thinking=None)
    used = sum(estimate_tokens(hit.chunk.text) for hit in budget.hits)
    assert 0 < len(budget.hits) < 20
    assert [hit.chunk.id for hit in budget.hits] == [f"c{n}" for n in range(1, len(budget.hits) + 1)]
    assert used + 1000 + 650 < 4096
    assert budget.warnings == (f"{20 - len(budget.hits)} of 20 passages left out: the window of 4096 tokens is full",)


def test_the_best_passage_is_shortened_rather_than_lost() -> None:
    budget = plan("Why?", hits(2, 5000), [], window=2048, max_tokens=500, thinking=None)
    assert [hit.chunk.id for hit in budget.hits] == ["c1"]
    assert estimate_tokens(budget.hits[0].chunk.text) + 500 + 650 < 2048
    assert budget.hits[0].chunk.text.endswith(" …")


def test_old_turns_go_before_passages() -> None:
    old = [Message(role=role, content="x " * 600) for role in ("user", "assistant") * 6]  # type: ignore[arg-type]
    budget = plan("Why?", hits(4), old, window=4096, max_tokens=1000, thinking=None)
    assert len(budget.hits) == 4
    assert len(budget.history) < 12
    assert not budget.history or budget.history[0].role == "user"


@pytest.mark.parametrize("window", [512, 1024, 8192, 131072])
@pytest.mark.parametrize("wanted", [1, 16, 512, 4096, 100_000])
def test_the_answer_keeps_its_part(window: int, wanted: int) -> None:
    budget = plan("Why?", [], [], window=window, max_tokens=wanted, thinking=100_000)
    assert 0 < budget.max_tokens <= min(wanted, window // 2)
    assert 0 <= budget.thinking < budget.max_tokens


def test_a_question_longer_than_the_window_is_refused() -> None:
    with pytest.raises(BadRequest, match="too many for a window of 2048"):
        plan("word " * 5000, [], [], window=2048, max_tokens=500, thinking=None)


def test_tokens_are_not_underestimated() -> None:
    assert estimate_tokens("word " * 100) >= 101
    assert estimate_tokens("有給休暇は年間20日です。") >= 9
    assert estimate_tokens("") == 0


# --- LangChain ---


async def test_the_chain_says_the_same() -> None:
    script = ["<think>\nLeave.\n</think>\n\n20 days [citation:1]."]
    rag = await small_rag(ScriptedChat(replies=script), LEAVE)
    runnable = chain(rag, ASKER, ["kb"], profile=R1)
    whole = await runnable.ainvoke("How many days?")
    streamed = [chunk async for chunk in runnable.astream("How many days?")]
    for message in (whole, sum(streamed[1:], streamed[0])):  # type: ignore[arg-type]
        assert message.content == "20 days [1]."
        assert message.additional_kwargs["reasoning_content"] == "Leave.\n"
        assert message.response_metadata["citations"][0]["chunk_id"] == "c1"
        assert message.response_metadata["sources"][0]["document"] == "handbook.pdf"
    assert len(streamed) > 3
    assert [node.name for node in runnable.get_graph().nodes.values()][1:-1] == [
        "read_question",
        "retrieve_passages",
        "write_answer",
    ]
