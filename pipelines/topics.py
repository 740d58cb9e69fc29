"""What a conversation is about, without a model: a title, key phrases, the next question. English, Japanese, Chinese.

A client asks for these after every answer; a thinking model would take longer for them than for the answer itself.
"""

import re
from collections import Counter
from collections.abc import Sequence

from pipelines.language import Language, detect
from pipelines.types import Message

#: what a conversation without words is called
UNTITLED: dict[Language, str] = {"en": "New conversation", "ja": "新しい会話", "zh": "新对话"}
#: questions that may follow; {0} and {1} are key phrases of the conversation
NEXT: dict[Language, tuple[str, str, str]] = {
    "en": ("Can you explain {0} in more detail?", "Are there exceptions for {1}?", "Which documents describe {0}?"),
    "ja": ("{0}について詳しく教えてください。", "{1}に例外はありますか？", "{0}はどの文書に書かれていますか？"),
    "zh": ("能详细说明一下{0}吗？", "{1}有例外情况吗？", "哪些文档提到了{0}？"),
}
#: what of a conversation is read; nobody waits for a tag on the rest
MOST_MESSAGES, MOST_CHARACTERS = 40, 20_000

_NOISE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|<[^<>\n]{1,80}>|\[\d{1,3}\]|[*_#>`|]+", re.DOTALL)
_POLITE = re.compile(
    r"(?:请问一下|请问|请告诉我|我想知道|能不能|请|すみませんが?|ちなみに)[，,、\s]*"
    r"|(?:(?:hi|hello|hey|please|so|ok|okay)[,!.\s]+)*"
    r"(?:(?:can|could|would|will) you (?:please )?|please |i(?:'d| would) like (?:you )?to |i want (?:you )?to )?"
    r"(?:(?:tell|show|give) me (?:about )?(?=\w)|explain (?:to me )?(?=\w))?",
    re.IGNORECASE,
)
_POLITE_END = re.compile(
    r"(?:について)?(?:を)?(?:詳しく)?(?:教えて(?:ください|下さい)?|お願いします)[。！!？?]*$|[吗呢吧][。？?]*$"
)
_ENDS = re.compile(r"(?<=[。！？!?])|(?<=[.])\s|\n")
_WORD = re.compile(r"[a-z0-9à-ɏ]+(?:[.'’-][a-z0-9à-ɏ]+)*", re.IGNORECASE)
_COMMON = frozenset(
    re.findall(
        r"\S+",
        "a about above after again all also am an and any are as at be because been before being below between both "
        "but by can could day days did do does doing down during each few for from further get give had has have "
        "having he her here hers him his how i if in into is it its itself just let like long many may me might more "
        "most much must my no nor not now of off on once one only or other our ours out over own please same say says "
        "she should so some such take tell than that the their theirs them then there these they this those through "
        "to too two under until up us use very was we were what when where which while who whom whose why will with "
        "would year years yes you your yours ",
    )
)
#: words and particles between which Chinese phrases stand; Japanese ones stand between kana
_CHINESE_CUT = re.compile(
    r"什么|多少|怎么|怎样|如何|哪些|哪个|为什么|可以|能够|是否|有没有|我们|你们|他们|这个|那个|需要|以及|或者|如果"
    r"|的|了|是|在|和|与|及|或|有|吗|呢|吧|我|你|他|她|它|这|那|请|问|要|能|会|把|被|从|到|对|就|都|也|还|很|几|每|为|个"
)
_RUN = re.compile(r"[\u30a1-\u30fa\u30fc]{3,}|[\u3005\u4e00-\u9fff]{2,10}")


def title(messages: Sequence[Message], limit: int = 40) -> str:
    """The first question as a heading of at most about `limit` Latin characters, half as many wide ones."""
    asked = next((m.content[:MOST_CHARACTERS] for m in messages if m.role == "user" and m.content.strip()), "")
    language = detect(asked)
    line = next((part for part in _ENDS.split(_NOISE.sub(" ", asked)) if part.strip()), "")
    line = _without_politeness(line)
    line = line.strip(" \"'“”‘’«»「」『』.。!！?？:：,，、;；-")
    if not line:
        return UNTITLED[language]
    cut = _cut(line, limit if language == "en" else limit // 2)
    return cut[0].upper() + cut[1:]


def _without_politeness(line: str) -> str:
    line = " ".join(line.split())
    begin = _POLITE.match(line)
    return _POLITE_END.sub("", line[begin.end() if begin else 0 :])


def _cut(line: str, limit: int) -> str:
    if len(line) <= limit:
        return line
    head = line[: limit - 1]
    space = head.rfind(" ", limit // 2)
    words = (head[:space] if space > 0 else head).rstrip(" ,、，").split(" ")
    while len(words) > 3 and words[-1].lower() in _COMMON:
        words.pop()
    return " ".join(words) + "…"


def key_phrases(messages: Sequence[Message], limit: int = 3) -> list[str]:
    """The phrases that come up most, the user's own first; at most `limit`, none inside another."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for message in messages[-MOST_MESSAGES:]:
        weight = 2 if message.role == "user" else 1
        for phrase in _phrases(_NOISE.sub(" ", message.content[:MOST_CHARACTERS])):
            key = phrase.lower()
            counts[key] += weight
            shown.setdefault(key, phrase)
    place = {key: i for i, key in enumerate(shown)}
    best = sorted(counts, key=lambda key: (-counts[key] * min(3, 1 + key.count(" ")), place[key]))
    chosen: list[str] = []
    for key in best:
        if not any(key in other or other in key for other in chosen):
            chosen.append(key)
        if len(chosen) == limit:
            break
    return [shown[key] for key in chosen]


def _phrases(text: str) -> list[str]:
    """Runs of content words, at most three long; runs of katakana or of Chinese characters."""
    language = detect(text)
    if language == "en":
        return _latin_phrases(text)
    if language == "zh":
        text = _CHINESE_CUT.sub(" ", text)
    return [run for run in _RUN.findall(text) if run[0] not in "何誰幾"]


def _latin_phrases(text: str) -> list[str]:
    found: list[str] = []
    for clause in re.split(r"[^\w\s.'’-]+|\.\s", text):
        run: list[str] = []
        for word in [*_WORD.findall(clause), "the"]:  # a common word ends the last run
            if word.lower() not in _COMMON and not word.isdigit() and len(run) < 3:
                run.append(word)
                continue
            if run and (len(run) > 1 or len(run[0]) > 3):
                found.append(" ".join(run))
            run = []
    return found


def follow_ups(messages: Sequence[Message]) -> list[str]:
    """Questions that may come next, in the conversation's language; [] where nothing is to be asked about."""
    phrases = key_phrases(messages, 2)
    if not phrases:
        return []
    language = detect(next((m.content for m in reversed(messages) if m.role == "user"), messages[-1].content))
    lowered = [phrase if phrase.isupper() else phrase[0].lower() + phrase[1:] for phrase in phrases]
    return [pattern.format(lowered[0], lowered[-1]) for pattern in NEXT[language]]


def continuation(text: str, messages: Sequence[Message]) -> str:
    """How the text went on when it was last written in this conversation; "" if it never was."""
    start = text.strip().lower()
    if len(start) < 4:
        return ""
    for message in reversed(messages):
        at = message.content.lower().find(start)
        if at >= 0:
            rest = re.split(r"[。！？!?\n]|\.\s", message.content[at + len(start) :], maxsplit=1)[0]
            return rest[:80].rstrip()
    return ""
