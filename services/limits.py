"""What one API key may use: requests in a minute, answers at the same time. Counted in this process."""

import time
from dataclasses import dataclass

from pipelines.errors import TooManyRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """Limits of a key; 0 is no limit."""

    requests_per_minute: int = 0
    concurrent_answers: int = 0


class Limits:
    """How much of its limits each key has used.

    Requests are counted by a token bucket that holds one minute's worth: a burst passes, a constant overload does not.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}
        self._answers: dict[str, int] = {}

    def request(self, key_id: str, limits: KeyLimits, now: float | None = None) -> None:
        """Count a request. Raises TooManyRequests with the seconds until the next one is allowed."""
        per_minute = limits.requests_per_minute
        if not per_minute:
            return
        now = time.monotonic() if now is None else now
        left, at = self._buckets.get(key_id, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / 60)
        if left < 1:
            self._buckets[key_id] = (left, now)
            raise TooManyRequests(
                f"the key has used its {per_minute} requests a minute; wait, or ask the operator for more",
                retry_after=(1 - left) * 60 / per_minute,
            )
        self._buckets[key_id] = (left - 1, now)

    def answer(self, key_id: str, limits: KeyLimits) -> "Place":
        """Hold one of the key's places for answers. Raises TooManyRequests when all are taken."""
        running = self._answers.get(key_id, 0)
        if limits.concurrent_answers and running >= limits.concurrent_answers:
            raise TooManyRequests(
                f"the key has {running} answers in progress and may have {limits.concurrent_answers}; wait for one",
                retry_after=2,
            )
        self._answers[key_id] = running + 1
        return Place(self._answers, key_id)


class Place:
    """A place that is held until the `with` around it ends."""

    __slots__ = ("_answers", "_key_id")

    def __init__(self, answers: dict[str, int], key_id: str) -> None:
        self._answers, self._key_id = answers, key_id

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        left = self._answers[self._key_id] - 1
        if left:
            self._answers[self._key_id] = left
        else:
            del self._answers[self._key_id]
