"""What a client's request says about how to answer, whatever its protocol, in our words."""

from collections.abc import Mapping
from typing import Any

from connectors.bodies import number, whole, words_of
from connectors.tools import tools_of
from pipelines.thinking import thinking_of
from pipelines.turn import Options


def options_of(data: Mapping[str, Any], sampling: Mapping[str, Any] | None = None) -> Options:
    """Options of a request's body. `sampling` is the object that holds temperature and the like, if not the body."""
    found = data if sampling is None else sampling
    wish = thinking_of(data)
    return Options(
        temperature=number(found.get("temperature")),
        top_p=number(found.get("top_p")),
        seed=whole(found.get("seed")),
        stop=words_of(found.get("stop")),
        free_sampling=data.get("free_sampling") is True,
        thinking=wish.on,
        thinking_budget=wish.budget,
        effort=wish.effort,
        tools=tools_of(data),
    )
