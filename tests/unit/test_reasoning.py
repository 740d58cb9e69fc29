"""The reasoning parser against a simple reference, at every split point."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.reasoning import SPAN_LIMIT, ReasoningParser, split_reasoning, strip_reasoning
from pipelines.types import Reasoning, Text


def code_state(section: str) -> tuple[str, int]:
    """Open fence and open code span at the end of a text, computed from scratch: slow and simple."""
    fence = ""
    span = 0
    for line in section.split("\n"):
        span = 0
        for run in re.finditer(r"`+|~+", line):
            marks, leads = run.group(), not line[: run.start()].strip()
            if fence:
                if leads and marks[0] == fence[0] and len(marks) >= len(fence):
                    fence = ""
            elif leads and len(marks) >= 3 and not span:
                fence = marks
            elif marks[0] == "`":
                span = 0 if span == len(marks) else span or len(marks)
    return fence, 0 if fence else span


def reference(text: str, thinking: bool) -> list[tuple[bool, str]]:
    """The same rules with the whole text in hand, one character at a time."""
    sections: list[tuple[bool, str]] = []  # (thinking, text)
    section = code = ""
    while text:
        tag = next((t for t in ("<think>", "</think>") if text.startswith(t)), None)
        if tag is None:
            section, code, text = section + text[0], code + text[0], text[1:]
            continue
        fence, span = code_state(code)
        window = text[len(tag) :][: SPAN_LIMIT + 1].split("\n")[0]
        literal = bool(fence) or (span > 0 and any(len(run) == span for run in re.findall("`+", window)))
        if literal or (thinking and tag == "<think>" and section.strip()):
            section, code = section + tag, code + tag
        else:
            code = ""
            if thinking != (tag == "<think>"):
                sections.append((thinking, section))
                section, thinking = "", tag == "<think>"
        text = text[len(tag) :]
    sections.append((thinking, section))
    out: list[tuple[bool, str]] = []
    answered = False
    for thinks, part in sections:
        shown = part.lstrip() if thinks or not answered else part
        answered = answered or (not thinks and bool(shown))
        if shown:
            out.append((thinks, shown))
    return merged(out)


def merged(pieces: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    out: list[tuple[bool, str]] = []
    for thinks, text in pieces:
        if out and out[-1][0] == thinks:
            out[-1] = (thinks, out[-1][1] + text)
        else:
            out.append((thinks, text))
    return out


def parse(chunks: list[str], thinking: bool) -> list[tuple[bool, str]]:
    parser = ReasoningParser(starts_in_thinking=thinking)
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)] + parser.close()
    assert all(piece.text for piece in pieces)
    return merged([(isinstance(piece, Reasoning), piece.text) for piece in pieces])


FORMS = {
    "both tags": ("<think>\nHm.\n</think>\n\nYes.", False, [(True, "Hm.\n"), (False, "Yes.")]),
    "opening tag in the prompt": ("Hm.\n</think>\n\nYes.", True, [(True, "Hm.\n"), (False, "Yes.")]),
    "opening tag twice": ("<think>\nHm.</think>Yes.", True, [(True, "Hm."), (False, "Yes.")]),
    "empty block": ("<think>\n\n</think>\n\nYes.", False, [(False, "Yes.")]),
    "empty block, opened in the prompt": ("\n\n</think>\n\nYes.", True, [(False, "Yes.")]),
    "no block": ("Yes.", False, [(False, "Yes.")]),
    "several blocks": (
        "<think>a</think>One <think>b</think>two.",
        False,
        [(True, "a"), (False, "One "), (True, "b"), (False, "two.")],
    ),
    "cut while thinking": ("<think>Hm, let me", False, [(True, "Hm, let me")]),
    "stray closing tag": ("Yes.</think> No.", False, [(False, "Yes. No.")]),
    "tag in a code span": ("Use `<think>` here.", False, [(False, "Use `<think>` here.")]),
    "tag in a fence": (
        "See:\n```xml\n<think>\nx\n</think>\n```\nDone.",
        False,
        [(False, "See:\n```xml\n<think>\nx\n</think>\n```\nDone.")],
    ),
    "closing tag in a span while thinking": (
        "The tag `</think>` ends it.\n</think>\nYes.",
        True,
        [(True, "The tag `</think>` ends it.\n"), (False, "Yes.")],
    ),
    "lonely backtick while thinking": ("a ` b</think>\nYes.", True, [(True, "a ` b"), (False, "Yes.")]),
    "half a tag at the end": ("1 <thi", False, [(False, "1 <thi")]),
    "less-than signs": ("<think>a < b</think>a<b <t", False, [(True, "a < b"), (False, "a<b <t")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_at_every_split(form: str) -> None:
    text, thinking, expected = FORMS[form]
    assert reference(text, thinking) == expected
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert parse([text[:first], text[first:second], text[second:]], thinking) == expected
    assert parse(list(text), thinking) == expected


ALPHABET = st.sampled_from(
    ["<think>", "</think>", "<", "think>", "</thi", "nk>", "`", "``", "```", "~~~", "\n", " ", "a", "答", "b" * 45]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(ALPHABET, max_size=30), st.booleans(), st.data())
@example(["`", "<think>", "b" * 45, "b" * 45, "`"], False, None)
def test_equals_the_reference_at_any_split(tokens: list[str], thinking: bool, data: st.DataObject | None) -> None:
    text = "".join(tokens)
    expected = reference(text, thinking)
    assert parse([text], thinking) == expected
    assert parse(list(text), thinking) == expected
    if data is not None and text:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        assert parse([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], thinking) == expected


def test_work_is_linear() -> None:
    """Counted in characters looked at by the scanner, not in seconds: a bounded number of times each."""

    class Counting(ReasoningParser):
        __slots__ = ("seen",)

        def _scan(self, buffer: str, last: bool) -> None:
            self.seen = getattr(self, "seen", 0) + len(buffer)
            super()._scan(buffer, last)

    for text in ("<" * 20_000, "`<think>" * 2_500, "</think" * 2_500, "```\n</think>\n" * 1_500):
        parser = Counting(starts_in_thinking=True)
        for character in text:
            parser.feed(character)
        parser.close()
        assert parser.seen < 100 * len(text)


def test_text_without_tags_passes_at_once() -> None:
    parser = ReasoningParser()
    assert parser.feed("Hello ") == [Text("Hello ")]
    assert parser.feed("a < b") == [Text("a < b")]
    assert parser.feed(" <") == [Text(" ")]
    assert parser.feed("b") == [Text("<b")]


def test_separated_fields_end_the_thinking_state() -> None:
    parser = ReasoningParser(starts_in_thinking=True)
    parser.separated()
    assert parser.feed("\nYes.") == [Text("Yes.")]
    assert parser.rescue() == ""


@pytest.mark.parametrize(
    ("text", "rescued"),
    [
        ("Paris is the capital.", "Paris is the capital."),
        ("Hm.</think>Yes.", ""),
        ("<think>Hm.", ""),
        ("Look:\n```\ncode\n</think>\nThe answer.", "The answer."),
        ("Look:\n```\n</think>\n```\nThat is it.", "Look:\n```\n</think>\n```\nThat is it."),
        ("<think>Look:\n```\n</think>\n```\nstill thinking", ""),
    ],
)
def test_rescue(text: str, rescued: str) -> None:
    for chunks in ([text], list(text)):
        parser = ReasoningParser(starts_in_thinking=True)
        for chunk in chunks:
            parser.feed(chunk)
        parser.close()
        assert parser.rescue() == rescued


@pytest.mark.parametrize(
    ("turn", "clean"),
    [
        ("<think>\nold\n</think>\n\nYes [1].", "Yes [1]."),
        ("old thoughts</think>\n\nYes.", "Yes."),
        ("old</think>Yes <think>more</think>no.", "Yes no."),
        ("<think>never closed", ""),
        ('<details type="reasoning" done="true">\n<summary>Thought for 3 s</summary>\n> old\n</details>\nYes.', "Yes."),
        ("<thinking>old</thinking>Yes.", "Yes."),
        ("> old thought\n> more\n\nYes.", "Yes."),
        ("> a quoted passage [1]\n\nYes.", "> a quoted passage [1]\n\nYes."),
        ("> only a quote\n", "> only a quote"),
        ("Write `</think>` like this.", "Write `</think>` like this."),
        ("Plain.", "Plain."),
    ],
)
def test_history_holds_no_reasoning(turn: str, clean: str) -> None:
    assert strip_reasoning(turn) == clean


def test_split_reasoning() -> None:
    assert split_reasoning("<think>a</think>b") == ("a", "b")
