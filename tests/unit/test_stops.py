"""Stop strings in a stream, against a look at the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.delta import Delta
from pipelines.stops import StopSearch, until_stop


@given(st.text("ab\n", max_size=30), st.lists(st.text("ab\n", max_size=4), max_size=3), st.data())
def test_as_if_the_text_came_whole(text: str, stops: list[str], data: st.DataObject) -> None:
    search, shown, rest = StopSearch(stops), "", text
    while rest and not search.found:
        size = data.draw(st.integers(1, len(rest)))
        shown, rest = shown + search.feed(rest[:size]), rest[size:]
    if not search.found:
        shown += search.close()
    places = [text.find(stop) for stop in stops if stop and stop in text]
    assert search.found == bool(places)
    # Stops that begin later may end earlier: where pieces end between them, the earlier end counts.
    assert shown in {text[:place] for place in places} if places else shown == text


async def test_thinking_is_not_looked_at_and_the_end_is_the_streams() -> None:
    async def deltas() -> object:
        for delta in (Delta(reasoning="a stop b"), Delta(content="x st"), Delta(content="op y"), Delta(content="z")):
            yield delta

    got = [delta async for delta in until_stop(deltas(), ["stop"], 7)]  # type: ignore[arg-type]
    assert [delta.reasoning for delta in got if delta.reasoning] == ["a stop b"]
    assert "".join(delta.content for delta in got) == "x "
    assert got[-1].finish_reason == "stop" and got[-1].last
    assert got[-2].usage and got[-2].usage["prompt_tokens"] == 7
