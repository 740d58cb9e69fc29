"""Dify's external knowledge interface: what it asks, how its metadata conditions read, what it wants back.

Source: docs.dify.ai, "External Knowledge API", and api/services/external_knowledge_service.py of Dify.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connectors.bodies import json_object, number, whole
from pipelines.errors import BadRequest

MOST_RECORDS = 100
DEFAULT_TOP_K = 4
Test = Callable[[Any, Any], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One comparison of one field; of any of the fields, where older Dify names several."""

    names: tuple[str, ...]
    operator: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRequest:
    """`POST {endpoint}/retrieval`."""

    knowledge_id: str
    query: str
    top_k: int
    score_threshold: float
    #: True: all conditions must hold, False: one is enough
    every: bool = True
    conditions: tuple[Condition, ...] = ()

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a passage with this metadata is wanted."""
        if not self.conditions:
            return True
        held = (holds(condition, metadata) for condition in self.conditions)
        return all(held) if self.every else any(held)


def parse_retrieval(body: bytes) -> RetrievalRequest:
    """Read a request body. Raises BadRequest; for an empty one, which is Dify's Save, with a word that all is well."""
    if not body.strip():
        raise BadRequest("address and key are right; this request had no body, so there is nothing to look for")
    data = json_object(body, "`knowledge_id`, `query` and `retrieval_setting`")
    knowledge, query = data.get("knowledge_id"), data.get("query")
    if not isinstance(knowledge, str) or not knowledge:
        raise BadRequest("`knowledge_id` must be the name or id of a knowledge base")
    if not isinstance(query, str) or not query.strip():
        raise BadRequest("`query` must be a string that is not empty")
    setting = data.get("retrieval_setting")
    setting = setting if isinstance(setting, dict) else {}
    every, conditions = _conditions(data.get("metadata_condition"))
    return RetrievalRequest(
        knowledge_id=knowledge,
        query=query,
        top_k=min(whole(setting.get("top_k")) or DEFAULT_TOP_K, MOST_RECORDS),
        score_threshold=number(setting.get("score_threshold")) or 0.0,
        every=every,
        conditions=conditions,
    )


def _conditions(given: object) -> tuple[bool, tuple[Condition, ...]]:
    if not given:
        return True, ()
    if not isinstance(given, dict) or not isinstance(given.get("conditions") or [], list):
        raise BadRequest("`metadata_condition` must be an object with a list `conditions`")
    operator = given.get("logical_operator") or "and"
    if operator not in ("and", "or"):
        raise BadRequest("`metadata_condition.logical_operator` must be and, or or")
    return operator == "and", tuple(_condition(each, i) for i, each in enumerate(given.get("conditions") or []))


def _condition(given: object, i: int) -> Condition:
    if not isinstance(given, dict):
        raise BadRequest(f"`metadata_condition.conditions[{i}]` must be an object")
    name, operator = given.get("name"), given.get("comparison_operator")
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, list) else ()
    if not names or not all(isinstance(each, str) for each in names):
        raise BadRequest(f"`metadata_condition.conditions[{i}].name` must be the name of a field")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise BadRequest(
            f"`metadata_condition.conditions[{i}].comparison_operator` must be one of {', '.join(OPERATORS)}"
        )
    return Condition(names=names, operator=operator, value=given.get("value"))


def holds(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    """Whether a condition holds. A field that is not there is empty, and is therefore not what it is compared with."""
    test = OPERATORS[condition.operator]
    return any(test(metadata.get(name), condition.value) for name in condition.names)


def _empty(there: Any, _: Any = None) -> bool:
    return there is None or there in ("", [])


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _is(there: Any, wanted: Any) -> bool:
    if _empty(there) or _empty(wanted):
        return _empty(there) and _empty(wanted)
    one, other = _number(there), _number(wanted)
    return one == other if one is not None and other is not None else _text(there) == _text(wanted)


def _in(there: Any, wanted: Any) -> bool:
    choices = [each.strip() for each in wanted.split(",")] if isinstance(wanted, str) else wanted
    choices = choices if isinstance(choices, list) else [choices]
    return not _empty(there) and any(_is(there, each) for each in choices)


def _compared(compare: Callable[[float, float], bool], read: Callable[[Any], float | None]) -> Test:
    """A comparison of what `read` makes of both sides; False where one of them is not such a thing."""

    def test(there: Any, wanted: Any) -> bool:
        one, other = read(there), read(wanted)
        return one is not None and other is not None and compare(one, other)

    return test


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return number(value)


def _time(value: Any) -> float | None:
    """Seconds since 1970 of a date: a number (milliseconds if it is that large), or text in ISO 8601, UTC if unsaid."""
    found = _number(value)
    if found is not None:
        return found / 1000 if abs(found) > 1e11 else found
    try:
        when = datetime.fromisoformat(value.strip().replace("/", "-")) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if when is None else (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


#: all that Dify's editor offers
OPERATORS: Mapping[str, Test] = {
    "contains": lambda there, wanted: _text(wanted) in _text(there) and not _empty(there),
    "not contains": lambda there, wanted: _empty(there) or _text(wanted) not in _text(there),
    "start with": lambda there, wanted: not _empty(there) and _text(there).startswith(_text(wanted)),
    "end with": lambda there, wanted: not _empty(there) and _text(there).endswith(_text(wanted)),
    "is": _is,
    "is not": lambda there, wanted: not _is(there, wanted),
    "in": _in,
    "not in": lambda there, wanted: not _in(there, wanted),
    "empty": _empty,
    "not empty": lambda there, _: not _empty(there),
    "=": _is,
    "≠": lambda there, wanted: not _is(there, wanted),
    ">": _compared(lambda one, other: one > other, _number),
    "<": _compared(lambda one, other: one < other, _number),
    "≥": _compared(lambda one, other: one >= other, _number),
    "≤": _compared(lambda one, other: one <= other, _number),
    "before": _compared(lambda one, other: one < other, _time),
    "after": _compared(lambda one, other: one > other, _time),
}
