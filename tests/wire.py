"""The rules of the chat stream that SDKs forgive and clients do not (W1 to W16): a lint over the bytes of an answer."""

import json
from typing import Any

Frame = dict[str, Any]


def lint(body: bytes, *, usage_asked: bool = False, form: str = "reasoning_content") -> list[Frame]:
    """The frames of a complete stream, if it keeps every rule; AssertionError with the rule's number if not."""
    frames = _frames(body)
    assert body.endswith(b"data: [DONE]\n\n"), "W16: [DONE] is missing"
    assert all(isinstance(frame.get("choices"), list) for frame in frames), "W5: a frame without choices"
    for name in ("id", "model", "created"):
        assert len({frame[name] for frame in frames}) == 1, f"0.1: {name} changes"
    assert {frame["object"] for frame in frames} == {"chat.completion.chunk"}
    _deltas([frame["choices"][0]["delta"] for frame in frames if frame["choices"]], form)
    with_usage = [frame for frame in frames if frame.get("usage")]
    assert len(with_usage) == 1, f"W11: usage {len(with_usage)} times"
    assert (with_usage[0]["choices"] == []) is usage_asked, "W11: usage in its own frame if asked for, else at the end"
    finishes = [choice["finish_reason"] for frame in frames for choice in frame["choices"]]
    assert [reason for reason in finishes if reason] == [next(r for r in reversed(finishes) if r)], "one finish reason"
    return frames


def lint_broken(body: bytes) -> str:
    """The message of a stream that ends in an error, if it ends as the rules say."""
    *frames, last = _frames(body)
    assert b"[DONE]" not in body, "W12: [DONE] behind an error"
    assert set(last) == {"error"}, "W12: the error frame has choices or more"
    assert set(last["error"]) == {"message", "type", "param", "code"} and isinstance(last["error"]["message"], str)
    assert all("choices" in frame for frame in frames), "W5: a frame without choices"
    return str(last["error"]["message"])


def _frames(body: bytes) -> list[Frame]:
    assert b"\r" not in body, "W1: carriage return"
    assert not body.startswith(b"\xef\xbb\xbf"), "W4: byte order mark"
    assert body.endswith(b"\n\n"), "W4: no blank line at the end"
    frames = []
    for event in body[:-2].split(b"\n\n"):
        assert b"\n" not in event, f"W2/W3: an event of several lines: {event[:80]!r}"
        if event.startswith(b":"):
            continue
        assert event.startswith(b"data: "), f"W2: {event[:80]!r}"
        if event != b"data: [DONE]":
            frames.append(json.loads(event[6:]))
    return frames


def _deltas(deltas: list[dict[str, Any]], form: str) -> None:
    assert {delta["role"] for delta in deltas if "role" in delta} <= {"assistant", ""}, "W9: role"
    thinking = [i for i, delta in enumerate(deltas) if delta.get(form)] if form.startswith("reasoning") else []
    for delta in deltas[thinking[0] : thinking[-1]] if thinking else []:
        assert delta.get(form), "W7: an empty delta while thinking"
    for delta in deltas:
        spoken = [name for name in ("content", "reasoning_content", "reasoning") if delta.get(name)]
        assert len(spoken) <= 1, "W8: thinking and text in one delta"
        other = {"reasoning_content", "reasoning"} - {form}
        assert not other & set(delta), f"W10: thinking in {other & set(delta)}"
