"""Answers that leave the language of their question: noticed, stopped, written again; and none that does not."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.models.fake import ScriptedChat
from pipelines.answer import answer
from pipelines.drift import WINDOW, LanguageGuard, latin_language
from pipelines.language import Language
from pipelines.profiles import profile_for
from pipelines.turn import Options
from pipelines.types import Event, Finish, Message, Text
from tests.unit.scripted_server import delta, reply, scripted, sse
from tests.unit.small_rag import ASKER, small_rag
from tests.unit.streaming import ask
from tests.unit.test_streamed import WINDOW as MODELS
from tests.unit.test_streamed import asks

R1 = profile_for("deepseek-r1:7b")
PROSE: dict[str, str] = {
    "English": "Full-time staff have twenty-five days of annual leave, which they request from the team lead at least "
    "three weeks before it begins. Days that are not used by the end of March will be lost, unless the company itself "
    "has asked for the leave to be moved. There is more about this in the handbook.",
    "French": "Les salariés à temps plein ont droit à vingt-cinq jours de congés par an, qui sont demandés au "
    "responsable au moins trois semaines avant le départ. Les jours qui ne sont pas pris avant la fin du mois de mars "
    "sont perdus, sauf si la société a demandé elle-même que les congés soient reportés. Vous pouvez voir le manuel.",
    "German": "Vollzeitkräfte haben fünfundzwanzig Tage Urlaub im Jahr, die sie mindestens drei Wochen vorher bei der "
    "Teamleitung beantragen. Tage, die bis Ende März nicht genommen werden, verfallen, wenn die Firma nicht selbst um "
    "eine Verschiebung gebeten hat. Mehr dazu steht im Handbuch, und die Personalabteilung kann auch helfen.",
    "Spanish": "Los empleados a tiempo completo tienen veinticinco días de vacaciones al año, que se solicitan al "
    "responsable con tres semanas de antelación como mínimo. Los días que no se disfrutan antes del final de marzo se "
    "pierden, salvo que la empresa haya pedido el aplazamiento. Para más información, esta guía es la que se usa.",
    "Japanese": "正社員には年間25日の有給休暇があります。休暇を取るときは、少なくとも3週間前に上長へ申請してください。"
    "3月末までに使わなかった日数は失効しますが、会社の都合で取得日を変更した場合はこの限りではありません。詳しくは就業規則をご覧ください。",
    "Chinese": "全职员工每年享有二十五天年假。休假须至少提前三周向团队负责人提出申请。"
    "三月底之前没有使用的天数将会作废，但由于公司原因而推迟休假的情况除外。更多内容请参阅员工手册，如有疑问可以联系人事部门，他们会尽快给您答复。",
}
QUESTIONS: dict[str, tuple[Language, str]] = {
    "English": ("en", "How many days of annual leave do I have?"),
    "French": ("en", "Combien de jours de congés est-ce que nous avons par an, et qui les accorde ?"),
    "German": ("en", "Wie viele Tage Urlaub habe ich im Jahr, und bei wem beantrage ich die?"),
    "Japanese": ("ja", "年次有給休暇は何日ありますか。"),
    "Chinese": ("zh", "年假有多少天？"),
}
CODE = "```python\nfor line in open('the_file_of_the_day.txt'):\n    print(line.split(','))  # this is it\n```\n"
NAMES = "Kubernetes, Docker Compose, Open WebUI, DeepSeek-R1-Distill-Qwen-7B, Milvus Lite, ChatBox, n8n, Visual Studio"


def run(language: Language, question: str, text: str, size: int = 7, **options: Any) -> tuple[str, str]:
    """What is shown, and the language drifted to."""
    guard = LanguageGuard(language, question, **options)
    shown = ""
    for a, b in pairwise([*range(0, len(text), size), len(text)]):
        shown += guard.feed(text[a:b])
        if guard.drifted:
            return shown, guard.drifted
    return shown + guard.close(), guard.drifted


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize("answered", PROSE)
def test_every_pair_of_languages(asked: str, answered: str) -> None:
    shown, drifted = run(*QUESTIONS[asked], PROSE[answered])
    assert drifted == ("" if asked == answered else answered)
    if asked == answered:
        assert shown == PROSE[answered]
    elif asked in ("Japanese", "Chinese") and answered != "Japanese":
        assert shown == "", "nothing of it is to be seen"


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize(
    "inside",
    [CODE, NAMES + "\n", "`SELECT the FROM of WHERE it IS NOT and TO BE`\n", "> " + PROSE["English"] + "\n"]
    + [f"“{text}”\n" for text in PROSE.values()]
    + [f"「{text}」\n" for text in PROSE.values()],
)
def test_code_names_and_quotes_are_no_drift(asked: str, inside: str) -> None:
    language, question = QUESTIONS[asked]
    prose = PROSE[asked]
    for text in (prose + "\n\n" + inside + prose, inside + prose, prose[:30] + "\n" + inside + prose[30:]):
        assert run(language, question, text) == (text, ""), text


@pytest.mark.parametrize(
    ("language", "question"),
    [
        ("en", "Translate this into Japanese: annual leave"),
        ("en", "What does 有給休暇 mean in Chinese?"),
        ("ja", "次の文を英語に翻訳してください。"),
        ("zh", "请把这句话翻译成英文。"),
        ("zh", "用法语写一封邮件。"),
        ("en", "Écris la réponse en anglais, et traduis le titre."),
    ],
)
@pytest.mark.parametrize("answered", PROSE)
def test_a_question_that_wants_another_language_is_not_watched(
    language: Language, question: str, answered: str
) -> None:
    assert run(language, question, PROSE[answered])[1] == ""


@pytest.mark.parametrize("question", ["Оплата отпуска?", "연차는 며칠입니까?", "كم يوما؟", "12 + 3?", "VPN?"])
def test_a_question_in_no_language_we_know_is_judged_by_nothing(question: str) -> None:
    for text in PROSE.values():
        assert run("en", question, text)[1] in ("", "Chinese", "Japanese")
    assert run("en", question, "Отпуск оплачивается полностью, и это касается всех сотрудников компании. " * 5)[1] == ""


def test_a_fixed_language_holds_whatever_the_question() -> None:
    assert run("ja", "How many days?", PROSE["English"], fixed=True)[1] == "English"
    assert run("en", "年假有多少天？", PROSE["Chinese"], fixed=True)[1] == "Chinese"
    assert run("zh", "Translate it", PROSE["Chinese"], fixed=True)[1] == ""


def test_long_code_and_long_quotes_are_no_drift() -> None:
    for asked in ("Japanese", "French"):
        for inside in (CODE * 20, "“" + PROSE["English"] * 5 + "”\n", "> " + PROSE["English"] * 5 + "\n"):
            text = PROSE[asked] + "\n" + inside.replace("```\n```python\n", "\n") + PROSE[asked]
            assert run(*QUESTIONS[asked], text) == (text, "")


def test_drift_in_the_middle_is_noticed() -> None:
    text = PROSE["Japanese"] + "\n\n" + PROSE["Chinese"] * 6
    shown, drifted = run("ja", QUESTIONS["Japanese"][1], text)
    assert drifted == "Chinese"
    assert len(shown) < len(PROSE["Japanese"]) + 3 * WINDOW


def test_the_right_language_is_shown_at_once() -> None:
    guard = LanguageGuard("ja", QUESTIONS["Japanese"][1])
    assert guard.feed("正社") == "" and guard.waits()
    assert guard.feed("員には") == "正社員には" and not guard.waits()
    guard = LanguageGuard("en", QUESTIONS["English"][1])
    assert guard.feed("Full") == "Full" and not guard.waits()


WORDS = st.sampled_from(
    [
        *PROSE["English"].split(),
        *PROSE["Japanese"].split("。"),
        *PROSE["Chinese"].split("，"),
        CODE,
        NAMES,
        "\n\n",
        "[1]",
        " ",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(QUESTIONS)), st.lists(WORDS, max_size=60))
def test_nothing_is_lost_and_nothing_invented(asked: str, pieces: list[str]) -> None:
    guard = LanguageGuard(*QUESTIONS[asked])
    shown = ""
    for i, piece in enumerate(pieces):
        shown += guard.feed(piece)
        if guard.drifted:
            assert "".join(pieces[: i + 1]).startswith(shown)
            return
    shown += guard.close()
    assert shown == "".join(pieces) or guard.drifted


def test_small_words_belong_to_one_language_each() -> None:
    for name, text in PROSE.items():
        if name in ("English", "French", "German", "Spanish"):
            assert latin_language(text) == name


# -- repaired ------------------------------------------------------------------------------------------------------


async def collected(chat: ScriptedChat, question: str, **options: Any) -> tuple[str, Finish]:
    events: list[Event] = [
        event
        async for event in answer(
            await small_rag(chat),
            ASKER,
            [Message(role="user", content=question)],
            [],
            profile=R1,
            options=Options(**options),
        )
    ]
    finish = events[-1]
    assert isinstance(finish, Finish)
    return "".join(event.text for event in events if isinstance(event, Text)), finish


async def test_an_answer_in_the_wrong_language_is_written_again_from_the_same_thoughts() -> None:
    chat = ScriptedChat(replies=[f"<think>\nHmm, 25.\n</think>\n\n{PROSE['English']}", PROSE["Japanese"]])
    text, finish = await collected(chat, QUESTIONS["Japanese"][1])
    assert text == PROSE["Japanese"]
    assert finish.warnings == (
        "the model answered in English and was asked again for Japanese: nothing of that was shown",
    )
    user, thoughts = chat.asked[1]
    assert user.text.endswith("回答は必ず日本語で書いてください。")
    assert thoughts.additional_kwargs["reasoning_content"].startswith("Hmm, 25.")


async def test_what_was_shown_stays_and_the_answer_begins_again() -> None:
    chat = ScriptedChat(replies=[PROSE["French"] * 3, PROSE["English"]])
    text, finish = await collected(chat, QUESTIONS["English"][1])
    assert text.startswith(PROSE["French"][:60]) and text.endswith("\n\n" + PROSE["English"])
    assert "begins again after what was shown" in finish.warnings[0]


async def test_a_french_question_is_answered_in_french() -> None:
    chat = ScriptedChat(replies=[PROSE["English"] * 3, PROSE["French"]])
    text, finish = await collected(chat, QUESTIONS["French"][1])
    assert text.endswith(PROSE["French"])
    assert chat.asked[1][0].text.endswith("Write the answer in French.")
    assert "asked again for French" in finish.warnings[0]


async def test_it_is_repaired_once() -> None:
    chat = ScriptedChat(replies=[PROSE["English"]])
    text, finish = await collected(chat, QUESTIONS["Chinese"][1])
    assert text == PROSE["English"]
    assert len(chat.asked) == 2
    assert len(finish.warnings) == 1


async def test_a_fixed_language_is_asked_for() -> None:
    chat = ScriptedChat(replies=[PROSE["Chinese"]])
    text, finish = await collected(chat, "How many days?", answer_in="zh")
    assert text == PROSE["Chinese"] and not finish.warnings
    assert chat.asked[0][-1].text == "How many days?\n\n请务必用中文回答。"


@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize("wrong", ["English", "Chinese"])
async def test_by_relay_and_by_events(relayed: bool, wrong: str) -> None:
    def pieces(text: str) -> list[Any]:
        return [delta(content=text[i : i + 4]) for i in range(0, len(text), 4)]

    first = sse(delta(reasoning_content="うーん、25日。"), *pieces(PROSE[wrong] * 3), delta("stop"))
    again = sse(*[{"choices": [{"index": 0, "text": PROSE["Japanese"], "finish_reason": "stop"}]}])

    async def script(path: str, writer: Any) -> None:
        found = MODELS if path.endswith("/models") else reply(again if path == "/v1/completions" else first)
        await found(path, writer)

    async with scripted(script) as seen:
        client = await ask(seen.url, asks(QUESTIONS["Japanese"][1]), relayed=relayed)
    assert client.text("content") == PROSE["Japanese"]
    assert wrong in client.last["warnings"][0]
