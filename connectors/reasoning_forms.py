"""The forms in which chat clients read a model's thinking.

`reasoning_content` is read by nearly all; `reasoning` by some newer ones; tags in the text by old ones and by those
that drop every unknown field (ChatBox's provider "OpenAI").
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pipelines.types import Reasoning, Text

ReasoningForm = Literal["reasoning_content", "reasoning", "think_tags", "none"]
#: what other servers call these forms
_ALIASES: dict[str, ReasoningForm] = {
    "deepseek": "reasoning_content",
    "deepseek_legacy": "think_tags",
    "parsed": "reasoning",
    "raw": "think_tags",
    "hidden": "none",
}
OPEN, CLOSE = "<think>", "</think>"


def reasoning_form_of(value: object) -> ReasoningForm | None:
    """The form a client names; None for "auto" and whatever nobody knows."""
    if not isinstance(value, str):
        return None
    named = value.lower().replace("-", "_")
    if named in get_args(ReasoningForm):
        return named  # type: ignore[return-value]
    return _ALIASES.get(named)


class ReasoningOut:
    """Thinking and text as the deltas of one form. Never both in one; each tag is a delta of its own (NextChat)."""

    __slots__ = ("_content", "_open", "form")

    def __init__(self, form: ReasoningForm = "reasoning_content") -> None:
        self.form = form
        self._open = False
        #: what went out as content; thinking as blanks, so that a place in the answer is the same in both
        self._content: list[str] = []

    def deltas(self, event: Reasoning | Text) -> list[dict[str, Any]]:
        """The deltas of one piece; [] for an empty one."""
        if not event.text:
            return []
        if isinstance(event, Text):
            tags = self.close()
            self._content.append(event.text)
            return [*tags, {"content": event.text}]
        if self.form != "think_tags":
            return [{self.form: event.text}] if self.form != "none" else []
        pieces = [event.text] if self._open else [OPEN, "\n", event.text]
        self._open = True
        self._blank(*pieces)
        return [{"content": piece} for piece in pieces]

    def note(self, answer: Sequence[str]) -> None:
        """Take answer text that went out past `deltas`."""
        self._content.extend(answer)

    def close(self) -> list[dict[str, Any]]:
        """The deltas that end the thinking; [] if none is open."""
        if not self._open:
            return []
        self._open = False
        pieces = ("\n", CLOSE, "\n\n")
        self._blank(*pieces)
        return [{"content": piece} for piece in pieces]

    def answer(self) -> str:
        """All content so far, thinking in it as blanks."""
        return "".join(self._content)

    def message(self, reasoning: str, answer: str) -> dict[str, Any]:
        """The fields of a whole message."""
        before = f"{OPEN}\n{reasoning}\n{CLOSE}\n\n" if reasoning and self.form == "think_tags" else ""
        self._blank(before)
        self._content.append(answer)
        apart = reasoning and self.form in ("reasoning_content", "reasoning")
        return {"content": before + answer, **({self.form: reasoning} if apart else {})}

    def _blank(self, *pieces: str) -> None:
        self._content.extend(" " * len(piece) for piece in pieces)
