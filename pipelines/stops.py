"""Stop strings, looked for in the answer alone.

An engine looks for them in everything a model writes: a stop at an empty line ends the first paragraph of R1's thinking
and there is no answer. (vLLM 0.32 besides loses the end of the thinking, and sends a piece of its closing tag as
content, when a stop is set.) So for models that think the engine is not told, and the stream is ended here.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from pipelines.budget import estimate_tokens
from pipelines.delta import Delta


class StopSearch:
    """Finds the first of several strings in a text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What of the text so far can be shown; sets `found` once a stop stands in it."""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((self._begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """What was held back: the beginning of a stop that did not come."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """Length of the longest end of `text` that a stop begins with."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


async def until_stop(
    deltas: AsyncIterator[Delta], stops: Sequence[str], prompt_tokens: int
) -> AsyncGenerator[Delta, None]:
    """The same deltas up to a stop in `content`. Leaving them stops the server, so usage is then an estimate."""
    search = StopSearch(stops)
    written = 0
    async for delta in deltas:
        written += estimate_tokens(delta.reasoning + delta.content) if delta.reasoning or delta.content else 0
        if not delta.content:
            if delta.last and (held := search.close()):
                yield Delta(content=held)
            yield delta
            continue
        if shown := search.feed(delta.content):
            yield Delta(content=shown)
        if search.found:
            yield Delta(usage={"prompt_tokens": prompt_tokens, "completion_tokens": written})
            yield Delta(finish_reason="stop", last=True)
            return
