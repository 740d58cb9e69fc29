"""Whatever an answer is made of, its stream keeps the rules of tests/wire.py; and the lint itself can fail."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.apps.openai import ChatRequest, Completion
from connectors.reasoning_forms import ReasoningForm
from pipelines.errors import ModelUnavailable
from pipelines.types import Chunk, Citation, Event, Finish, Hit, Message, Reasoning, Sources, Text, Usage
from services import streamed
from services.streamed import StreamedCompletion
from tests.unit.streaming import Client
from tests.wire import lint, lint_broken

HIT = Hit(
    chunk=Chunk(id="c", document_id="d", knowledge_base_id="k", document="a\r\n.pdf", text="x\r\ny", position=0),
    score=0.5,
)
CITED = Citation(n=1, chunk_id="c", document_id="d", document="a.pdf", page=1, quote="x")
FINISH = Finish(usage=Usage(prompt=1, completion=2), citations=(CITED,), warnings=("w",))
pieces = st.lists(st.one_of(st.text().map(Text), st.text().map(Reasoning)), max_size=12)


def stream(
    events: Sequence[Event | Exception | float],
    *,
    form: ReasoningForm = "reasoning_content",
    usage: bool = False,
    cards: bool = False,
) -> bytes:
    async def source() -> AsyncGenerator[Event]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, float):
                await asyncio.sleep(event)
            else:
                yield event

    async def run() -> bytes:
        request = ChatRequest(model="m", messages=(Message(role="user", content="q"),), include_usage=usage or None)
        completion = Completion(request, {"c": "http://x/c/t"}, form=form, source_events=cards)
        answer, client = StreamedCompletion(completion, {}), Client()
        answer.events, answer.delivered = source(), lambda event: (event,)
        await answer({"type": "http"}, client.receive, client.send)
        return client.body

    return asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text().map(Reasoning), max_size=6),
    pieces,
    st.sampled_from(["reasoning_content", "reasoning", "think_tags"]),
    st.booleans(),
    st.booleans(),
)
def test_every_answer_keeps_the_rules(
    thoughts: list[Reasoning], said: list[Event], form: ReasoningForm, usage: bool, cards: bool
) -> None:
    # thinking that comes back in the middle of the answer is shown where it comes; W7 speaks of one stretch
    answer = [piece for piece in said if isinstance(piece, Text)]
    body = stream([Sources(hits=(HIT,)), *thoughts, *answer, FINISH], form=form, usage=usage, cards=cards)
    frames = lint(body, usage_asked=usage, form=form)
    deltas = [frame["choices"][0]["delta"] for frame in frames if frame["choices"]]
    whole, thought = "".join(piece.text for piece in answer), "".join(piece.text for piece in thoughts)
    content = "".join(delta.get("content") or "" for delta in deltas)
    if form == "think_tags":
        assert content == (f"<think>\n{thought}\n</think>\n\n" if thought else "") + whole
    else:
        assert content == whole and "".join(delta.get(form) or "" for delta in deltas) == thought


def test_annotations_stand_on_the_finish_frame_before_usage() -> None:
    frames = lint(stream([Sources(hits=(HIT,)), Text("See [1]."), FINISH], usage=True), usage_asked=True)
    assert [frame["choices"][0]["finish_reason"] for frame in frames if frame["choices"]] == [None, None, "stop"]
    assert frames[-2]["choices"][0]["delta"]["annotations"][0]["url_citation"]["start_index"] == 4


def test_silence_is_filled_with_comments_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PATIENCE", 0.02)
    monkeypatch.setattr(streamed, "QUIET", 0.02)
    body = stream([Reasoning("a"), 0.1, Reasoning("b"), 0.1, Text("c"), FINISH])
    assert body.count(b"\n\n: keep-alive\n\n") >= 2
    lint(body)


def test_an_error_in_the_middle_ends_the_stream_without_choices() -> None:
    body = stream([Reasoning("a"), Text("b"), ModelUnavailable("the model server went away")])
    assert lint_broken(body) == "the model server went away"


GOOD = stream([Reasoning("a"), Reasoning("b"), Text("c"), FINISH])


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("W1", b"\n\n", b"\r\n\r\n"),
        ("W2", b"data: {", b"event: x\ndata: {"),
        ("W3", b"\n\ndata: {", b"\n\n: keep-alive\ndata: {"),
        ("W2", b"\n\ndata: {", b"\n\nid: 1\n\ndata: {"),
        ("W4", b"[DONE]\n\n", b"[DONE]\n"),
        ("W5", b'"choices"', b'"choises"'),
        ("W8", b'{"content":"c"}', b'{"content":"c","reasoning_content":"d"}'),
        ("W9", b'"role":"assistant"', b'"role":"system"'),
        ("W10", b'{"reasoning_content":"b"}', b'{"reasoning":"b"}'),
        ("W16", b"data: [DONE]\n\n", b""),
    ],
)
def test_the_lint_sees_what_clients_break_on(rule: str, old: bytes, new: bytes) -> None:
    lint(GOOD)
    assert old in GOOD
    with pytest.raises(AssertionError, match=rule):
        lint(GOOD.replace(old, new))


def test_the_lint_sees_an_empty_delta_while_thinking_and_usage_twice() -> None:
    frame = GOOD.split(b"\n\n")[1]
    empty = frame.replace(b'{"reasoning_content":"a"}', b"{}")
    with pytest.raises(AssertionError, match="W7"):
        lint(GOOD.replace(frame, frame + b"\n\n" + empty))
    last = GOOD.split(b"\n\n")[-3]
    with pytest.raises(AssertionError, match="W11"):
        lint(GOOD.replace(last, last + b"\n\n" + last))
    with pytest.raises(AssertionError, match="W12"):
        lint_broken(b'data: {"choices":[],"error":{}}\n\n')
