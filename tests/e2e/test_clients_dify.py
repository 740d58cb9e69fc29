"""Dify's external knowledge, and the bases of its TEI, Xinference, GPUStack and LocalAI plugins."""

import time

import httpx
import pytest

from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL

QUERY = "How many days of annual leave do full-time staff have?"
EMBEDDER = "multilingual-e5-small"


@pytest.fixture(scope="module")
def http(clients: Clients) -> httpx.Client:
    return httpx.Client(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}, timeout=30)


def asked(knowledge: str = "handbook", **more: object) -> dict[str, object]:
    setting = {"top_k": 4, "score_threshold": 0.0}
    return {"knowledge_id": knowledge, "query": QUERY, "retrieval_setting": setting, **more}


def where(name: object, operator: str, value: object) -> dict[str, object]:
    conditions = [{"name": name, "comparison_operator": operator, "value": value}]
    return {"metadata_condition": {"logical_operator": "and", "conditions": conditions}}


@pytest.mark.parametrize("path", ["/dify/retrieval", "/dify//retrieval", "/retrieval", "/v1/retrieval"])
def test_records_at_every_path_a_user_may_type(clients: Clients, http: httpx.Client, path: str) -> None:
    began = time.monotonic()
    answer = http.post(clients.url + path, json=asked())
    assert answer.status_code == 200 and time.monotonic() - began < 30
    record = answer.json()["records"][0]
    assert "twenty-five days" in record["content"] and record["title"] == "handbook.md"
    assert 0 <= record["score"] <= 1
    assert {"document_id", "document_name", "chunk_id", "url", "source", "page"} <= set(record["metadata"])
    opened = httpx.get(record["metadata"]["url"], headers={"Accept": "application/json"})
    assert opened.json()["text"] == record["content"], "the link opens without a key"


def test_save_is_refused_for_a_wrong_key_only(clients: Clients, http: httpx.Client) -> None:
    """What Dify's Save sends: no body, no content type. It takes everything but 403, 404 and 502 for success."""
    good = http.post("/dify/retrieval")
    assert good.status_code == 400 and isinstance(good.json()["error_code"], int)
    for header, code in [("Bearer wrong", 1002), ("wrong", 1001), ("", 1001), ("Basic eDp5", 1001)]:
        bad = httpx.post(f"{clients.url}/dify/retrieval", headers={"Authorization": header})
        assert (bad.status_code, bad.json()["error_code"]) == (403, code)
    assert set(bad.json()) == {"error_code", "error_msg"}


def test_unknown_and_foreign_knowledge_look_the_same(clients: Clients, http: httpx.Client) -> None:
    unknown = http.post("/dify/retrieval", json=asked("nowhere"))
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, 2001)
    bound = {"Authorization": f"Bearer {clients.keys['bound']}"}
    foreign = httpx.post(f"{clients.url}/dify/retrieval", json=asked(), headers=bound)
    assert (foreign.status_code, foreign.json()["error_code"]) == (404, 2001)
    assert "leave" not in foreign.text and "handbook" not in foreign.json()["error_msg"].partition(";")[2]


def test_metadata_conditions_thresholds_and_top_k(http: httpx.Client) -> None:
    def count(**more: object) -> int:
        answer = http.post("/dify/retrieval", json=asked(**more))
        assert answer.status_code == 200, answer.text
        return len(answer.json()["records"])

    assert count() == 1
    assert count(**where("document_name", "is", "handbook.md")) == 1
    assert count(**where(["document_name"], "end with", ".pdf")) == 0
    assert count(**where("page", "empty", None)) == 1
    assert count(**where("upload_date", "after", "2020-01-01")) == 1
    assert count(**where("upload_date", "before", "2020-01-01")) == 0
    assert count(retrieval_setting={"top_k": 1, "score_threshold": 1.0}) == 0
    assert count(retrieval_setting={"top_k": 1, "score_threshold": None}) == 1
    assert count(metadata_condition=None) == 1
    wrong = http.post("/dify/retrieval", json=asked(**where("page", "~", 1)))
    assert wrong.status_code == 400 and "not contains" in wrong.json()["error_msg"]


def test_a_repeated_request_is_quick_but_never_shows_what_is_gone(http: httpx.Client) -> None:
    http.post("/v1/knowledge_bases", json={"name": "brief"})

    def upload(text: str) -> str:
        files = {"file": ("a.txt", text.encode())}
        document = http.post("/v1/knowledge_bases/brief/documents", files=files).json()["documents"][0]["id"]
        until = time.monotonic() + 240
        while http.get(f"/v1/documents/{document}").json()["state"] != "succeeded":
            assert time.monotonic() < until
            time.sleep(0.1)
        return str(document)

    def contents() -> list[str]:
        return [record["content"] for record in http.post("/dify/retrieval", json=asked("brief")).json()["records"]]

    assert contents() == []
    document = upload("Annual leave: thirty days.\n")
    assert contents() == contents() != []
    upload("Annual leave: forty days.\n")
    assert "forty" in contents()[0]
    http.delete(f"/v1/documents/{document}")
    assert contents() == []
    http.delete("/v1/knowledge_bases/brief")
    assert http.post("/dify/retrieval", json=asked("brief")).status_code == 404


def test_tei_has_a_base_for_each_model(http: httpx.Client) -> None:
    embedder, reranker = f"/tei/{EMBEDDER}", "/tei/deepwell-rerank"
    info = http.get(f"{embedder}/info").json()
    assert "embedding" in info["model_type"] and info["max_input_length"] == 512 and info["max_client_batch_size"] > 1
    assert "reranker" in http.get(f"{reranker}/info").json()["model_type"]
    assert len(http.post(f"{embedder}/v1/embeddings", json={"input": ["a", "b"]}).json()["data"]) == 2
    assert len(http.post(f"{embedder}/embed", json={"inputs": "a"}).json()[0]) == 384
    ranked = http.post(
        f"{reranker}/rerank", json={"query": "tea", "texts": ["rain", "tea"], "return_text": True}
    ).json()
    assert ranked[0]["text"] == "tea" and ranked[0]["score"] > ranked[1]["score"]
    for path in ("/tei/nope/info", "/tei/nope/nope"):
        wrong = http.get(path)
        assert wrong.status_code == 404 and set(wrong.json()) == {"error", "error_type"}


def test_xinference_finds_what_it_asks_for(clients: Clients, http: httpx.Client) -> None:
    assert httpx.get(f"{clients.url}/v1/cluster/auth").json() == {"auth": True}
    chat = http.get(f"/v1/models/{MODEL}").json()
    assert chat["model_type"] == "LLM" and "chat" in chat["model_ability"]
    assert {"model_format", "model_name", "context_length", "max_tokens"} <= set(chat)
    assert http.get(f"/v1/models/{EMBEDDER}").json()["model_type"] == "embedding"
    reranker = http.get("/v1/models/deepwell-rerank").json()
    assert reranker["model_type"] == "rerank" and not {"chat", "generate"} & set(reranker["model_ability"])
    assert isinstance(http.get("/v1/models/nope").json()["detail"], str)


def test_gpustack_and_localai_paths(http: httpx.Client) -> None:
    body = {"model": "deepwell-rerank", "query": "tea", "documents": ["rain", "tea"], "top_n": 3}
    for path in ("/v1-openai/rerank", "/rerank"):
        assert http.post(path, json=body).json()["results"][0]["index"] == 1
    assert http.post("/embeddings", json={"model": EMBEDDER, "input": "a"}).json()["data"][0]["embedding"]


def test_the_save_probes_of_the_model_plugins(http: httpx.Client) -> None:
    chat = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]}
    assert http.post("/v1/chat/completions", json=chat).json()["object"] == "chat.completion"
    text = http.post("/v1/completions", json={"model": MODEL, "max_tokens": 5, "prompt": "ping"}).json()
    assert text["object"] == "text_completion"
    probe = {"model": MODEL, "stream": False, "options": {"num_predict": 5}, "messages": chat["messages"]}
    assert http.post("/api/chat", json=probe).json()["model"] == MODEL
