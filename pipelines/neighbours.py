"""Passages with what stands before and after them: small passages are found best, larger ones are understood best."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.rag import Passages
from pipelines.types import Chunk, Hit

Place = tuple[str, int]


async def with_context(passages: Passages, hits: Sequence[Hit], distance: int) -> list[Hit]:
    """The hits, each with up to `distance` neighbours on either side in `context`; best hits choose first.

    A neighbour that is a hit itself, or that a better hit took, ends the extension there: no text is given twice.
    """
    near = {
        (each.document_id, each.position): each for each in await passages.around([h.chunk for h in hits], distance)
    }
    taken = {(hit.chunk.document_id, hit.chunk.position) for hit in hits}
    contexts: dict[str, str] = {}
    for hit in sorted(hits, key=lambda each: -each.score):
        before = _run(hit.chunk, -1, distance, near, taken)[::-1]
        after = _run(hit.chunk, 1, distance, near, taken)
        contexts[hit.chunk.id] = joined([*before, hit.chunk, *after]) if before or after else ""
    return [replace(hit, context=contexts[hit.chunk.id]) for hit in hits]


def joined(chunks: Sequence[Chunk]) -> str:
    """The text of chunks that follow one another in a document; what two of them share is written once."""
    parts: list[str] = []
    end = 0
    for chunk in chunks:
        shared = end - chunk.start
        # a text that is not the document's between the offsets (a repeated table header) cannot be cut by them
        cut = 0 < shared < len(chunk.text) == chunk.end - chunk.start
        parts.append(chunk.text[shared:] if cut else ("\n" if parts else "") + chunk.text)
        end = chunk.end
    return "".join(parts)


def _run(chunk: Chunk, step: int, distance: int, near: dict[Place, Chunk], taken: set[Place]) -> list[Chunk]:
    """Neighbours in one direction, nearest first."""
    run: list[Chunk] = []
    for position in range(chunk.position + step, chunk.position + step * (distance + 1), step):
        place = (chunk.document_id, position)
        if place in taken or place not in near:
            break
        taken.add(place)
        run.append(near[place])
    return run
