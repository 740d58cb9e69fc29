"""What clients send to embeddings and rerank, and what they need back."""

import base64
import json
import struct

import numpy as np
import pytest

from connectors.apps.openai_embeddings import embeddings_body, parse_embeddings
from connectors.apps.rerank import parse_rerank, rerank_body, tei_body
from connectors.bodies import dumps, json_object, shortened
from pipelines.errors import BadRequest

VECTORS = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], np.float32)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("wrong", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b'{"a": "\xed\xa0\x80"}', b"[" * 5000])
def test_what_is_no_json_object_is_refused_in_words(wrong: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON"):
        json_object(wrong, "`x`")


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]])
def test_token_arrays_are_refused_with_the_reason(tokens: object) -> None:
    with pytest.raises(BadRequest, match="token numbers"):
        parse_embeddings(body(model="m", input=tokens))


@pytest.mark.parametrize("wrong", [None, [], 3, {"a": 1}, ["a", None], ["a"] * 2049])
def test_inputs_of_the_wrong_kind_are_refused(wrong: object) -> None:
    with pytest.raises(BadRequest, match="`input`"):
        parse_embeddings(body(model="m", input=wrong))


@pytest.mark.parametrize("fields", [{"dimensions": 0}, {"dimensions": True}, {"encoding_format": "int8"}, {"model": 1}])
def test_wrong_options_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse_embeddings(body(input="x", **fields))


def test_base64_is_little_endian_float32_and_equals_the_floats() -> None:
    floats = embeddings_body(parse_embeddings(body(input=["a", "b"])), "m", VECTORS, [1, 2])
    coded = embeddings_body(parse_embeddings(body(input=["a", "b"], encoding_format="base64")), "m", VECTORS, [1, 2])
    rows = json.loads(dumps(floats))["data"]
    for row, code in zip(rows, coded["data"], strict=True):
        raw = base64.b64decode(code["embedding"])
        assert struct.unpack("<3f", raw) == pytest.approx(row["embedding"])
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [row["index"] for row in rows] == [0, 1]


def test_fewer_dimensions_are_the_first_ones_at_length_one() -> None:
    cut = shortened(VECTORS, 2)
    assert cut[0] == pytest.approx([0.6, 0.8])
    assert cut[1] == pytest.approx([0.0, 0.0]), "a vector with nothing left in it stays zero"
    assert shortened(np.array([[3.0, 0.0, 4.0]], np.float32), 1)[0] == pytest.approx([1.0])
    assert shortened(VECTORS, 3) is VECTORS
    with pytest.raises(BadRequest, match="have 3"):
        shortened(VECTORS, 4)


def test_rerank_answers_have_what_each_client_indexes_unguarded() -> None:
    wanted = parse_rerank(
        body(query="q", documents=["a", {"text": "b"}], top_n=None, return_documents=True, kwargs="{}")
    )
    answer = rerank_body(wanted, "m", [0.25, 0.75], 9)
    assert [(r["index"], r["relevance_score"], r["document"]["text"]) for r in answer["results"]] == [
        (1, 0.75, "b"),
        (0, 0.25, "a"),
    ]
    assert answer["meta"]["billed_units"]["search_units"] == 1
    assert answer["meta"]["tokens"]["input_tokens"] == 9
    assert answer["usage"]["total_tokens"] == 9


def test_rerank_gives_as_many_as_asked_for_and_never_fewer_than_there_are() -> None:
    def count(**fields: object) -> int:
        wanted = parse_rerank(body(query="q", documents=["a", "b", "c"], **fields))
        return len(rerank_body(wanted, "m", [0.0, 0.0, 0.0], 1)["results"])

    assert count(top_n=2) == 2
    assert count() == count(top_n=None) == count(top_n=0) == count(top_n=99) == 3


def test_rerank_in_the_shape_of_tei() -> None:
    wanted = parse_rerank(body(query="q", texts=["a", "b"], return_text=True, raw_scores=False))
    assert wanted.tei
    assert tei_body(wanted, [0.1, 0.9]) == [
        {"index": 1, "score": 0.9, "text": "b"},
        {"index": 0, "score": 0.1, "text": "a"},
    ]


@pytest.mark.parametrize("fields", [{}, {"query": ""}, {"query": "q"}, {"query": "q", "documents": [1]}])
def test_rerank_without_query_or_documents_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse_rerank(body(**fields))
