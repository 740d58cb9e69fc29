"""Every prompt, as text.

The file and search prompts have the shape of DeepSeek's official ones (github.com/deepseek-ai/DeepSeek-R1, README,
section 6): the same markers, the same order, the same rules, because these are the model's interface; the sentences
are ours. All of it goes into one user turn, the question last.
"""

import re
from collections.abc import Sequence
from datetime import date
from typing import Literal

from pipelines.language import NAMES, Language
from pipelines.types import Hit

Order = Literal["score", "canonical"]

FILE = """[file name]: {file_name}
[file content begin]
{file_content}
[file content end]
{question}"""

_ENGLISH = """# Search results for the user's message follow:
{search_results}
Every search result stands between [webpage X begin] and [webpage X end], where X is its number. When a sentence of \
your answer relies on a result, put [citation:X] at the end of that sentence. When it relies on several, put one \
marker for each side by side, like [citation:3][citation:5]. Never collect the markers at the end of the answer: each \
belongs to the sentence it supports.
Keep to the following when you answer:
- Today is {cur_date}.
- Some of the search results may have nothing to do with the question. Judge each one and use only those that help.
- If the answer is a list, give at most 10 items and say in which sources the rest can be found; put the most \
important and most complete ones first. Do not mention what the search results lack unless that is necessary.
- If the task is creative, such as writing a text, cite inside the body and not only at its end. Work out what the \
user wants, choose a fitting form, use all important information, and write something thorough and of high quality; \
go into as much depth as you can.
- If the answer is long, give it a structure and sum it up by paragraphs; with points, use at most 5 and merge what \
belongs together.
- If the question asks for a fact and the answer is short, you may add one or two sentences of related information.
- Choose a form that suits the question and reads easily.
- Bring several relevant results together; do not cite the same one over and over.
- Answer in the language of the user's question unless the user asks for another one.
{extra}
# The user's message:
{question}"""

_CHINESE = """# 以下是针对用户消息的搜索结果：
{search_results}
每条搜索结果都放在 [webpage X begin] 与 [webpage X end] 之间，X 是它的编号。回答中的某句话若依据某条结果，\
请在该句末尾标上 \
[citation:X]；若依据多条结果，请把标记并排写出，例如 [citation:3][citation:5]。不要把标记集中放在回答最后，\
每个标记都应跟在它所支持的句子后面。
回答时请遵守以下各点：
- 今天是{cur_date}。
- 搜索结果未必都与问题有关，请逐条判断，只采用有帮助的内容。
- 若答案是列举，最多给出 10 项，并说明其余内容可在哪些来源中查到；把最重要、最完整的放在前面。除非必要，\
不要提及搜索结果缺少什么。
- 若是写作等创作任务，请在正文中引用，不要只在末尾引用。先弄清用户的意图，选择合适的体裁，用上全部重要信息，\
写得充实、专业，尽可能深入。
- 若回答较长，请分层次、按段落归纳；需要分点时不超过 5 点，并合并相关内容。
- 若问题只问一个事实且答案很短，可以补充一两句相关信息。
- 根据问题选择清楚易读的格式。
- 综合多条相关结果作答，不要反复引用同一条。
- 除非用户另有要求，请使用与用户问题相同的语言回答。
{extra}
# 用户的消息：
{question}"""

_JAPANESE = """# 以下は、ユーザーのメッセージに対する検索結果です：
{search_results}
各検索結果は [webpage X begin] と [webpage X end] の間にあり、X はその番号です。\
回答の文がある検索結果に基づくときは、その文の末尾に \
[citation:X] を付けてください。複数に基づくときは [citation:3][citation:5] のように並べてください。\
印を回答の最後にまとめず、それぞれが裏付ける文の直後に置いてください。
回答にあたっては、次の点を守ってください：
- 今日は{cur_date}です。
- 検索結果のすべてが質問に関係するとは限りません。一つずつ判断し、役立つものだけを使ってください。
- 列挙する回答は最大 10 項目とし、残りがどの出典にあるかを示してください。重要で完全なものから順に挙げてください。\
必要がない限り、検索結果に無い事柄には触れないでください。
- 文章の作成などの創作では、末尾だけでなく本文中で引用してください。ユーザーの意図をくみ、ふさわしい形式を選び、\
重要な情報をすべて使って、できるだけ深く質の高い文章を書いてください。
- 回答が長いときは構成を整え、段落ごとにまとめてください。箇条書きは 5 点以内とし、\
関連する内容は一つにまとめてください。
- 事実を問う質問で答えが短いときは、関連する情報を一、二文添えてもかまいません。
- 質問に合った、読みやすい形式を選んでください。
- 複数の検索結果を合わせて答え、同じものばかりを引用しないでください。
- ユーザーが別の言語を求めない限り、質問と同じ言語（日本語）で答えてください。
{extra}
# ユーザーのメッセージ：
{question}"""

SEARCH: dict[Language, str] = {"en": _ENGLISH, "zh": _CHINESE, "ja": _JAPANESE}

#: an added last rule: what to do when the passages do not hold the answer
ABSTAIN: dict[Language, str] = {
    "en": "- If none of the search results answers the question, say so in one sentence, without markers, and stop.",
    "zh": "- 如果没有任何搜索结果能回答该问题，请用一句话说明，不加标记，然后结束。",
    "ja": "- どの検索結果も質問に答えていない場合は、そのことを印を付けずに一文で述べて終えてください。",
}

#: asks for one answer language, whatever the question's
ANSWER_IN: dict[Language, str] = {
    "en": "- Write the answer in {language}.",
    "zh": "- 请用{language}回答。",
    "ja": "- 回答は{language}で書いてください。",
}

_MARKER = re.compile(
    r"[\[【](?=\s*/?\s*(?:webpage\s*\S{0,8}\s*(?:begin|end)|file\s+(?:name|content)|citation\s*[:：]))", re.IGNORECASE
)
_SPECIAL = re.compile(r"<(?=[|｜][^\n]{1,40}?[|｜]>|/?think>)")
_HEADING = re.compile(r"#(?=\s*(?:The user's message|用户的消息|ユーザーのメッセージ))")


def escape(text: str) -> str:
    """Passage text that cannot close its wrapping, cite, or end the turn, whoever wrote it; else unchanged."""
    return _HEADING.sub("＃", _MARKER.sub("［", escape_tokens(text)))


def escape_tokens(text: str) -> str:
    """Text without special tokens of chat templates (`<｜User｜>`, `<|im_start|>`, `<think>`): no one opens a turn."""
    return _SPECIAL.sub("＜", text)


def passages(hits: Sequence[Hit]) -> str:
    """`{search_results}`: passage i wrapped as number i + 1, led by the name of its document and its page."""
    return "\n".join(passage(hit, n) for n, hit in enumerate(hits, 1))


def passage(hit: Hit, n: int) -> str:
    """One passage in its wrapping, with its neighbours where it was given them."""
    chunk = hit.chunk
    page = "" if chunk.page is None else f", p. {chunk.page}"
    return (
        f"[webpage {n} begin]{escape(f'{chunk.document}{page}')}\n{escape(hit.context or chunk.text)}[webpage {n} end]"
    )


def search_prompt(
    question: str, hits: Sequence[Hit], *, language: Language, today: date, answer_in: Language | None = None
) -> str:
    """The user turn that answers a question from passages."""
    extra = [ABSTAIN[language]]
    if answer_in is not None:
        extra.append(ANSWER_IN[language].format(language=NAMES[answer_in]))
    return SEARCH[language].format(
        search_results=passages(hits),
        cur_date=format_date(today, language),
        extra="\n".join(extra) + "\n",
        question=escape_tokens(question),
    )


def file_prompt(question: str, name: str, content: str) -> str:
    """The user turn that answers a question from one whole file."""
    return FILE.format(file_name=escape(name), file_content=escape(content), question=escape_tokens(question))


def format_date(day: date, language: Language) -> str:
    """A date as DeepSeek's templates write it."""
    return f"{day:%Y-%m-%d}" if language == "en" else f"{day.year}年{day.month}月{day.day}日"


def ordered(hits: Sequence[Hit], order: Order = "score") -> tuple[Hit, ...]:
    """Hits in the order in which they are numbered.

    "score" is best first. "canonical" is by document and place, so that the same set of passages is the same text
    and the engine finds it in its prefix cache.
    """
    if order == "canonical":
        return tuple(sorted(hits, key=lambda hit: (hit.chunk.document, hit.chunk.document_id, hit.chunk.position)))
    return tuple(hits)
