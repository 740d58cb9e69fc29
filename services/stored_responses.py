"""Responses kept for a while, so that a later request may name one instead of sending the conversation again.

OpenAI keeps them unless `store` is false, and clients count on it: the AI SDK sends the id of an earlier item in its
place. They are kept in this process's memory: bounded, for their key alone, gone with a restart.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import orjson

from pipelines.errors import BadRequest, NotFound

Json = dict[str, Any]
#: seconds one is kept, and bytes that all together may take
KEPT_FOR, LARGEST = 3600.0, 64 << 20


class StoredResponses:
    """The latest responses of each key. `most` is how many are kept in all; 0 keeps none."""

    def __init__(self, most: int, kept_for: float = KEPT_FOR, largest: int = LARGEST) -> None:
        self._most, self._kept_for, self._largest = most, kept_for, largest
        self._kept: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._items: dict[tuple[str, str], str] = {}
        self._bytes = 0

    @property
    def keeps(self) -> bool:
        """Whether any are kept."""
        return self._most > 0

    def keep(self, key_id: str, response: Json, items: Sequence[Json]) -> None:
        """Keep a finished response and the items it answers; not the passages, which may be deleted meanwhile."""
        kept = {name: value for name, value in response.items() if name != "search_results"}
        packed = orjson.dumps({"response": kept, "items": items}, option=orjson.OPT_SERIALIZE_NUMPY)
        self._kept[key_id, response["id"]] = (time.monotonic(), packed)
        self._bytes += len(packed)
        for item in response["output"]:
            self._items[key_id, item["id"]] = response["id"]
        while self._kept and (len(self._kept) > self._most or self._bytes > self._largest or self._old()):
            self._forget(next(iter(self._kept)))

    def get(self, key_id: str, response_id: str) -> Json:
        """A response. Raises NotFound."""
        return dict(self._find(key_id, response_id)["response"])

    def input_items(self, key_id: str, response_id: str) -> list[Json]:
        """The items a response answers. Raises NotFound."""
        return list(self._find(key_id, response_id)["items"])

    def conversation(self, key_id: str, response_id: str) -> list[Json]:
        """The items a response answers, and its own behind them. Raises BadRequest, as OpenAI does."""
        try:
            found = self._find(key_id, response_id)
        except NotFound as error:
            missing = BadRequest(f"`previous_response_id`: {error}; send the whole conversation in `input`")
            missing.code = "previous_response_not_found"
            raise missing from None
        return [*found["items"], *found["response"]["output"]]

    def item(self, key_id: str, item_id: str) -> Json | None:
        """One item of an earlier answer; None if it is not kept."""
        response_id = self._items.get((key_id, item_id), "")
        try:
            output = self._find(key_id, response_id)["response"]["output"]
        except NotFound:
            return None
        return next((item for item in output if item["id"] == item_id), None)

    def delete(self, key_id: str, response_id: str) -> None:
        """Forget a response. Raises NotFound."""
        self._find(key_id, response_id)
        self._forget((key_id, response_id))

    def _find(self, key_id: str, response_id: str) -> Json:
        while self._kept and self._old():
            self._forget(next(iter(self._kept)))
        if (found := self._kept.get((key_id, response_id))) is None:
            raise NotFound(
                f"there is no response {response_id!r} of this key: they are kept for {self._kept_for / 3600:.0f} h at "
                "most, in memory, unless `store` is false"
            )
        read: Json = orjson.loads(found[1])
        return read

    def _old(self) -> bool:
        return next(iter(self._kept.values()))[0] < time.monotonic() - self._kept_for

    def _forget(self, key: tuple[str, str]) -> None:
        _, packed = self._kept.pop(key)
        self._bytes -= len(packed)
        for item in orjson.loads(packed)["response"]["output"]:
            self._items.pop((key[0], item["id"]), None)
