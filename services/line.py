"""Who embeds next. One document at a time, batch by batch; a short one is let in between the batches of a long one.

Embedding takes every core, so two documents at once would each take twice as long. A book of a thousand pages would
make everybody wait, though: after each batch the document with the fewest passages left goes on, among those of like
length the one that came first. A document that has begun is therefore finished before another of its length begins,
and each FOURTH turn goes to whoever came first of all, so that short ones cannot keep a long one out for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

#: every how many turns the first comer goes first, however much it has left
FOURTH = 4
#: passages of who cannot say how many there are
MANY = 1 << 30


class Turn:
    """One document's place in the line."""

    def __init__(self, line: "Line", arrival: int) -> None:
        self._line, self.arrival = line, arrival
        #: passages left, in powers of four: what has the same power counts as alike
        self.length = 0
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def again(self, rest: int) -> None:
        """After a batch: let others go first if it is their turn now; `rest` passages are left."""
        self._line.at = None
        await self._line.wait(self, rest)


class Line:
    """The documents of one worker that wait to embed."""

    def __init__(self) -> None:
        #: whose turn it is
        self.at: Turn | None = None
        self._waiting: list[Turn] = []
        self._given = 0
        self._arrivals = count()

    @asynccontextmanager
    async def turn(self, rest: int) -> AsyncIterator[Turn]:
        """Wait for a turn with `rest` passages to embed; call `again` after each batch."""
        turn = Turn(self, next(self._arrivals))
        try:
            await self.wait(turn, rest)
            yield turn
        finally:
            if turn in self._waiting:  # cancelled while it waited
                self._waiting.remove(turn)
            if self.at is turn:
                self.at = None
                self._call()

    async def wait(self, turn: Turn, rest: int) -> None:
        """Return when it is the turn's time."""
        turn.length, turn.come = rest.bit_length() // 2, asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._call()
        await turn.come

    def _call(self) -> None:
        waiting = [turn for turn in self._waiting if not turn.come.done()]
        if self.at is None and waiting:
            self._given += 1
            oldest = self._given % FOURTH == 0
            self.at = min(waiting, key=lambda turn: (0 if oldest else turn.length, turn.arrival))
            self._waiting.remove(self.at)
            self.at.come.set_result(None)
