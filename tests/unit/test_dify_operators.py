"""Dify's 18 operators agree with a plain Python filter over the same passages, alone and joined by and / or."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.apps.dify import OPERATORS, parse_retrieval
from pipelines.errors import BadRequest

PASSAGES: list[dict[str, Any]] = [
    {"document_name": "handbook/leave.pdf", "page": 1, "upload_date": "2026-01-05T10:00:00.000Z", "team": "HR"},
    {"document_name": "handbook/travel.pdf", "page": 12, "upload_date": "2026-03-01T00:00:00.000Z", "team": "Finance"},
    {"document_name": "在宅勤務規程.docx", "page": None, "upload_date": "2025-12-31T23:59:59.000Z", "team": ""},
    {"document_name": "notes.md", "page": 3, "upload_date": "2026-03-01T00:00:00.000Z"},
]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text)


Plain = Callable[[dict[str, Any]], bool]
#: operator, field, value, the same as plain Python
TABLE: list[tuple[str, str, Any, Plain]] = [
    ("contains", "document_name", "leave", lambda p: "leave" in p["document_name"]),
    ("contains", "document_name", "勤務", lambda p: "勤務" in p["document_name"]),
    ("contains", "team", "a", lambda p: "a" in (p.get("team") or "")),
    ("not contains", "document_name", "handbook", lambda p: "handbook" not in p["document_name"]),
    ("not contains", "team", "R", lambda p: "R" not in (p.get("team") or "")),
    ("start with", "document_name", "handbook/", lambda p: p["document_name"].startswith("handbook/")),
    ("end with", "document_name", ".pdf", lambda p: p["document_name"].endswith(".pdf")),
    ("is", "team", "HR", lambda p: p.get("team") == "HR"),
    ("is", "page", "12", lambda p: p["page"] == 12),
    ("is not", "team", "HR", lambda p: p.get("team") != "HR"),
    ("in", "team", ["HR", "Finance"], lambda p: p.get("team") in ("HR", "Finance")),
    ("in", "team", "HR, Finance", lambda p: p.get("team") in ("HR", "Finance")),
    ("in", "page", [1, 3], lambda p: p["page"] in (1, 3)),
    ("not in", "team", ["HR"], lambda p: p.get("team") not in ("HR",)),
    ("empty", "team", None, lambda p: not p.get("team")),
    ("empty", "page", "", lambda p: p["page"] is None),
    ("not empty", "team", None, lambda p: bool(p.get("team"))),
    ("=", "page", 3, lambda p: p["page"] == 3),
    ("=", "page", "3", lambda p: p["page"] == 3),
    ("≠", "page", 3, lambda p: p["page"] != 3),
    (">", "page", 3, lambda p: p["page"] is not None and p["page"] > 3),
    ("<", "page", "3", lambda p: p["page"] is not None and p["page"] < 3),
    ("≥", "page", 3.0, lambda p: p["page"] is not None and p["page"] >= 3),
    ("≤", "page", 3, lambda p: p["page"] is not None and p["page"] <= 3),
    ("before", "upload_date", "2026-01-01", lambda p: day(p["upload_date"]) < day("2026-01-01T00:00:00Z")),
    ("before", "upload_date", "2026-03-01T00:00:00Z", lambda p: day(p["upload_date"]) < day("2026-03-01T00:00:00Z")),
    ("after", "upload_date", 1767225600, lambda p: day(p["upload_date"]) > day("2026-01-01T00:00:00Z")),
    ("after", "upload_date", 1767225600000, lambda p: day(p["upload_date"]) > day("2026-01-01T00:00:00Z")),
    ("after", "upload_date", "2026/01/05", lambda p: day(p["upload_date"]) > day("2026-01-05T00:00:00Z")),
]


def asked(*conditions: tuple[Any, str, Any], operator: str | None = None) -> bytes:
    listed = [{"name": n, "comparison_operator": o, "value": v} for n, o, v in conditions]
    condition = {"conditions": listed} | ({"logical_operator": operator} if operator else {})
    setting = {"top_k": 5, "score_threshold": 0.5}
    body = {"knowledge_id": "kb", "query": "q", "retrieval_setting": setting, "metadata_condition": condition}
    return json.dumps(body).encode()


@pytest.mark.parametrize(("operator", "field", "value", "plain"), TABLE)
def test_an_operator_is_what_plain_python_says(operator: str, field: str, value: Any, plain: Plain) -> None:
    wanted = parse_retrieval(asked((field, operator, value)))
    assert [wanted.matches(passage) for passage in PASSAGES] == [plain(passage) for passage in PASSAGES]


def test_the_table_has_every_operator() -> None:
    assert {row[0] for row in TABLE} == set(OPERATORS)
    assert len(OPERATORS) == 18


@pytest.mark.parametrize("one", TABLE)
@pytest.mark.parametrize("other", TABLE[::5])
def test_and_or_join_them(one: tuple[str, str, Any, Plain], other: tuple[str, str, Any, Plain]) -> None:
    pair = [(row[1], row[0], row[2]) for row in (one, other)]
    both, either = parse_retrieval(asked(*pair)), parse_retrieval(asked(*pair, operator="or"))
    for passage in PASSAGES:
        assert both.matches(passage) == (one[3](passage) and other[3](passage))
        assert either.matches(passage) == (one[3](passage) or other[3](passage))


def test_older_dify_names_several_fields() -> None:
    wanted = parse_retrieval(asked((["team", "document_name"], "contains", "notes")))
    assert [wanted.matches(passage) for passage in PASSAGES] == [False, False, False, True]


def test_no_conditions_want_everything() -> None:
    for condition in (None, {}, {"logical_operator": "or", "conditions": []}):
        body = {"knowledge_id": "kb", "query": "q", "metadata_condition": condition}
        assert parse_retrieval(json.dumps(body).encode()).matches({})


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "no body"),
        (b"{}", "knowledge_id"),
        (b'{"knowledge_id": "x"}', "query"),
        (b'{"knowledge_id": "x", "query": " "}', "query"),
        (asked(("page", "~", 1)), "comparison_operator"),
        (asked(("page", "is", 1), operator="xor"), "logical_operator"),
        (asked((None, "is", 1)), "name"),
        (asked(([], "is", 1)), "name"),
    ],
)
def test_wrong_requests_are_refused_in_words(body: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        parse_retrieval(body)


def test_settings_are_kept_in_bounds() -> None:
    def top_k(value: object) -> int:
        body = {"knowledge_id": "kb", "query": "q", "retrieval_setting": {"top_k": value}}
        return parse_retrieval(json.dumps(body).encode()).top_k

    assert [top_k(value) for value in (None, 0, 3, 5000, "x")] == [4, 4, 3, 100, 4]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(operator=st.sampled_from(sorted(OPERATORS)), there=anything, value=anything)
def test_no_value_breaks_an_operator(operator: str, there: Any, value: Any) -> None:
    assert OPERATORS[operator](there, value) in (True, False)
