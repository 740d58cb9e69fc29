"""Who embeds next."""

import asyncio

import pytest

from services.line import FOURTH, Line


async def run(line: Line, name: str, passages: int, done: list[str], batch: int = 16) -> None:
    """A document: embeds batch by batch, and notes its name for each."""
    async with line.turn(passages) as turn:
        while passages > 0:
            await asyncio.sleep(0)
            done.append(name)
            passages -= batch
            await turn.again(max(passages, 0))


async def embedded(*documents: tuple[str, int]) -> str:
    done: list[str] = []
    line = Line()
    await asyncio.gather(*(run(line, name, passages, done) for name, passages in documents))
    assert line.at is None
    return "".join(done)


async def test_documents_of_like_length_are_finished_one_after_another() -> None:
    assert await embedded(*((name, 64) for name in "abcdefgh")) == "".join(name * 4 for name in "abcdefgh")


async def test_a_short_document_does_not_wait_for_a_long_one() -> None:
    order = await embedded(("A", 16 * 1000), ("b", 20), ("c", 20))
    assert order.rindex("c") < 10
    assert order.count("A") == 1000


async def test_short_ones_cannot_keep_a_long_one_out() -> None:
    order = await embedded(("A", 16 * 50), *((str(n), 16) for n in range(400)))
    assert order.rindex("A") < 50 * FOURTH + FOURTH


@pytest.mark.parametrize("begun", [False, True], ids=["in line", "between batches"])
async def test_who_is_cancelled_keeps_nobody_waiting(begun: bool) -> None:
    line, done = Line(), list[str]()
    holder = asyncio.create_task(run(line, "h", 16 * 5, done))
    await asyncio.sleep(0)
    gone = asyncio.create_task(run(line, "g", 16 * 5 if begun else 2, done))
    last = asyncio.create_task(run(line, "l", 16 * 5, done))
    for _ in range(100 if begun else 1):
        await asyncio.sleep(0)
        if "g" in done:
            break
    assert ("g" in done) == begun
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await asyncio.gather(holder, last)
    assert (done.count("h"), done.count("l")) == (5, 5)
    assert line.at is None


async def test_a_fault_passes_the_turn_on() -> None:
    line = Line()

    async def fails() -> None:
        async with line.turn(1):
            await asyncio.sleep(0)
            raise RuntimeError

    results = await asyncio.gather(fails(), fails(), fails(), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError] * 3
    assert line.at is None
