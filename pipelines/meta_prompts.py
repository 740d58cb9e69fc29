"""Requests that a client makes for itself: is the server there, a title, tags, the next questions, a search query.

They come to the same model as people's questions, several after each answer. Searching and thinking for them would
keep the machine busy for minutes, and break the JSON that is waited for. So they are recognised by the words of each
client, and answered from the conversation they carry, at once.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.language import Language, detect
from pipelines.topics import continuation, follow_ups, key_phrases, title
from pipelines.types import Message

#: a request for so few tokens is a test of the connection
FEW_TOKENS = 16
#: characters of a conversation between tags; LobeChat, who sends it so, sends 8,000
LONGEST_TAGGED = 9_000
GREETING: dict[Language, str] = {
    "en": "Hello. What would you like to know?",
    "ja": "こんにちは。何をお知りになりたいですか？",
    "zh": "你好，想了解什么？",
}
_GREETING = re.compile(
    r"(?P<ping>ping)|hi|hello|hey|hi there|hello there|你好|您好|嗨|こんにちは|こんばんは|おはよう(?:ございます)?",
    re.IGNORECASE,
)
_TAGGED: re.Pattern[str] = re.compile(r"<(user|assistant)>\n?(.*?)\n?</\1>", re.DOTALL)
_TURN = re.compile(r"^(USER|ASSISTANT|SYSTEM|Human|Assistant|user|assistant|system)\s*[:：]\s?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaPrompt:
    """A client's own request."""

    #: e.g. "ping", "title", "tags"; "task" for one that only a model can do, "short" for a very short answer
    kind: str
    #: what to answer without a model; None if it takes one, without passages and without thinking
    answer: str | None = None


Answer = Callable[[str, Sequence[Message]], str]


def recognise(messages: Sequence[Message], max_tokens: int | None = None) -> MetaPrompt | None:
    """What kind of a client's own request this is; None for a person's question."""
    users = [message for message in messages if message.role == "user"]
    if not users:
        return None
    text = users[-1].content.strip()
    if len(users) == 1 and all(message.role in ("user", "system") for message in messages):
        word = _GREETING.fullmatch(text.strip(" .!?。！？~"))
        if word:
            return MetaPrompt(kind="ping", answer="pong" if word["ping"] else GREETING[_greeting_language(text)])
    if found := _recognise_text(text, messages):
        return found
    if max_tokens is not None and max_tokens <= FEW_TOKENS:
        return MetaPrompt(kind="short")
    return None


def _greeting_language(text: str) -> Language:
    return "zh" if text[:1] in "你您嗨" else detect(text)


def _recognise_text(text: str, messages: Sequence[Message]) -> MetaPrompt | None:
    for signature in SIGNATURES:
        if signature.pattern.search(text):
            return MetaPrompt(kind=signature.kind, answer=signature.answer(text, messages))
    system = next((m.content for m in messages if m.role == "system"), "")
    if _TITLE_SYSTEM.search(system):
        return MetaPrompt(kind="title", answer=_system_title(system, text))
    if text.startswith("### Task:") and not _WITH_CONTEXT.search(text):
        return MetaPrompt(kind="task")
    return MetaPrompt(kind="task") if _FOR_A_MODEL.search(text) else None


def _turns(text: str) -> list[Message]:
    """A conversation in a prompt: `USER: …`, `<user>…</user>` or JSON; without these, all of it is the user's."""
    text = text.strip()
    if text.startswith("[{"):
        return _json_turns(text)
    if tagged := _TAGGED.findall(text[:LONGEST_TAGGED]):
        return [Message(role=role, content=content.strip()) for role, content in tagged]
    marks = list(_TURN.finditer(text))
    if not marks:
        return [Message(role="user", content=text.strip())] if text.strip() else []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [
        Message(
            role="assistant" if mark[1].lower() == "assistant" else "user",
            content=text[mark.end() : end].strip(),
        )
        for mark, end in zip(marks, ends, strict=True)
        if mark[1].lower() != "system"
    ]


def _json_turns(text: str) -> list[Message]:
    """Cherry Studio's: a list of objects with `role` and `mainText`."""
    try:
        turns = json.loads(text)
    except json.JSONDecodeError:
        return []
    said = [(turn.get("role"), turn.get("mainText") or turn.get("content")) for turn in turns if isinstance(turn, dict)]
    return [
        Message(role="assistant" if role == "assistant" else "user", content=content)
        for role, content in said
        if isinstance(content, str)
    ]


def _history(text: str) -> list[Message]:
    """What Open WebUI puts between <chat_history> tags; the last pair, since a template may show one as an example."""
    mark = "<chat_history>" if "<chat_history>" in text else "### Chat History:"
    return _turns(text.rpartition(mark)[2].partition("</chat_history>")[0])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _chatbox_title(text: str, _: Sequence[Message]) -> str:
    fenced = text.partition("```")[2].rpartition("```")[0]
    parts = [part.strip() for part in fenced.split("---------") if part.strip()]
    if len(parts) > 1 and re.match(r"you are\b|你是|あなたは", parts[0], re.IGNORECASE):
        parts = parts[1:]  # the conversation's system prompt
    return title([Message(role="user", content=part) for part in parts[:1]], 30)


def _dify_title(text: str, _: Sequence[Message]) -> str:
    asked = text.rpartition("User Input:")[2].strip()
    named = title([Message(role="user", content=asked)])
    language = {"en": "English", "ja": "日本語", "zh": "中文"}[detect(asked)]
    return _json({"Language Type": language, "Your Reasoning": "", "Your Output": named})


def _system_title(system: str, text: str) -> str:
    turns = _turns(text)
    if not re.search(r"JSON object|title and description", system):
        return title(turns)
    asked = next((" ".join(turn.content.split())[:100] for turn in turns if turn.role == "user"), "")
    described = {"description": asked} if "description strings" in system else {}
    return _json({"title": title(turns), **described})


def _following_title(text: str, _: Sequence[Message]) -> str:
    return title(_turns(text.partition("\n")[2]))


def _conversation_title(_: str, messages: Sequence[Message]) -> str:
    return title(messages[:-1], 30)


def _tags(text: str, _: Sequence[Message]) -> str:
    phrases = [phrase[0].upper() + phrase[1:] for phrase in key_phrases(_history(text))]
    return _json({"tags": phrases or ["General"]})


def _queries(text: str, _: Sequence[Message]) -> str:
    asked = [message.content for message in _history(text) if message.role == "user"]
    return _json({"queries": [" ".join(asked[-1].split())[:200]] if asked and asked[-1] else []})


def _autocomplete(text: str, _: Sequence[Message]) -> str:
    begun = text.rpartition("<text>")[2].partition("</text>")[0]
    return _json({"text": continuation(begun, _history(text))})


def _emoji(text: str, _: Sequence[Message]) -> str:
    said = text.rpartition("Message:")[2]
    return "🤔" if re.search(r"[?？]", said) else "🙂"


def _image_prompt(text: str, _: Sequence[Message]) -> str:
    asked = [message.content for message in _history(text) if message.role == "user"]
    return _json({"prompt": asked[-1] if asked else ""})


@dataclass(frozen=True, slots=True)
class Signature:
    """The words by which a client's request is known, and how it is answered."""

    kind: str
    pattern: re.Pattern[str]
    answer: Answer


def _signature(kind: str, pattern: str, answer: Answer) -> Signature:
    return Signature(kind, re.compile(pattern, re.DOTALL), answer)


_TASK = r"\A### Task:\s*"
#: sources: open_webui/config.py (DEFAULT_*_PROMPT_TEMPLATE), chatbox packages/prompts, dify llm_generator/prompts.py,
#: NextChat app/locales. Each pattern needs the client's own sentence, not a word of it that a person may use.
SIGNATURES = (
    _signature(
        "title",
        _TASK + r"Generate a (?:concise|brief)\b[^\n]{0,40}\btitle\b",
        lambda text, _: _json({"title": title(_history(text))}),
    ),
    _signature("tags", _TASK + r"Generate 1-3 broad tags", _tags),
    _signature(
        "follow_ups",
        _TASK + r"Suggest 3-5 relevant follow-up questions",
        lambda text, _: _json({"follow_ups": follow_ups(_history(text))}),
    ),
    _signature(
        "queries", _TASK + r"Analyze the chat history to determine the necessity of generating search", _queries
    ),
    _signature("autocomplete", _TASK + r"You are an autocompletion system", _autocomplete),
    _signature("image_prompt", _TASK + r"Generate a detailed prompt for an? ?m? ?image generation task", _image_prompt),
    _signature(
        "emoji", r"\AYour task is to reflect the speaker's likely facial expression through a fitting emoji", _emoji
    ),
    _signature(
        "tools",
        r"\AAvailable Tools:.*Your task is to choose and return the correct tool\(s\)",
        lambda *_: _json({"tool_calls": []}),
    ),
    _signature(
        "title", r"\ABased on the chat history, give this conversation a name\..*The name is:\Z", _chatbox_title
    ),
    _signature("title", r"[\"“]Intention[\"”] (?:and|\+) [\"“]Subject[\"”].*\"Your Output\".*User Input:", _dify_title),
    _signature(
        "title",
        r"\A(?:Please generate a four to five word title summarizing our conversation"
        r"|使用四到五个字直接返回这句话的简要主题|4～5文字でこの会話の簡潔な主題を返して)",
        _conversation_title,
    ),
    _signature(
        "title", r"\AYou need to summarize the user's conversation into a title of no more than", _following_title
    ),
)
#: LobeChat's and Cherry Studio's, who put the instruction into the system prompt
_TITLE_SYSTEM = re.compile(
    r"professional conversation summarizer.{0,80}title"
    r"|summari[sz]e (?:the given session|the user's conversation) (?:as a|into a).{0,30}title"
    r"|将(?:用户的会话|给定的会话|给定的对话)(?:内容)?总结为.{0,20}标题",
    re.IGNORECASE | re.DOTALL,
)
#: Open WebUI's own RAG template is a person's question with passages
_WITH_CONTEXT = re.compile(r"\A### Task:\s*Respond to the user query using the provided context|<context>")
#: Dify's suggested questions, Open WebUI's merging of several models' answers
_FOR_A_MODEL = re.compile(
    r"Please help me predict the three most likely questions that human would ask"
    r"|\AYou have been provided with a set of responses from various models to the latest user query"
)
