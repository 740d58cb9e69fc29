"""Every route for every role; wrong keys in the shape of each protocol; limits; keys on the command line."""

import concurrent.futures
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
OPEN = {("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/cluster/auth"), ("GET", "/c/{token}")}
#: route -> a body that is good enough, and the roles that may call it
ROUTES: dict[tuple[str, str], tuple[Any, str]] = {
    ("GET", "/v1/models"): (None, "chat"),
    ("GET", f"/v1/models/{MODEL}"): (None, "chat retrieve"),
    ("POST", "/v1/chat/completions"): (CHAT, "chat"),
    ("POST", "/v1/completions"): ({"model": MODEL, "prompt": "hi"}, "chat"),
    ("POST", "/v1/responses"): ({"model": MODEL, "input": "hi"}, "chat"),
    ("POST", "/v1/embeddings"): ({"input": "a"}, "chat retrieve"),
    ("POST", "/v1/rerank"): ({"query": "a", "documents": ["a"]}, "chat retrieve"),
    ("POST", "/api/rerank"): ({"query": "a", "documents": ["a"]}, "chat retrieve"),
    ("GET", "/api/version"): (None, "chat"),
    ("GET", "/api/tags"): (None, "chat"),
    ("HEAD", "/api/tags"): (None, "chat"),
    ("GET", "/api/ps"): (None, "chat"),
    ("POST", "/api/show"): ({"model": MODEL}, "chat"),
    ("POST", "/api/pull"): ({"model": MODEL}, "chat"),
    ("POST", "/api/chat"): (CHAT, "chat"),
    ("POST", "/api/generate"): ({"model": MODEL, "prompt": "hi"}, "chat"),
    ("POST", "/api/embed"): ({"model": "deepwell-embedding", "input": "a"}, "chat retrieve"),
    ("POST", "/api/embeddings"): ({"model": "deepwell-embedding", "prompt": "a"}, "chat retrieve"),
    ("GET", "/tei/deepwell-embedding/info"): (None, "chat retrieve"),
    ("GET", "/tei/deepwell-embedding/health"): (None, "chat retrieve"),
    ("POST", "/tei/deepwell-rerank/rerank"): ({"query": "a", "texts": ["a"]}, "chat retrieve"),
    ("POST", "/tei/deepwell-embedding/embed"): ({"inputs": "a"}, "chat retrieve"),
    ("POST", "/tei/deepwell-embedding/v1/embeddings"): ({"input": "a"}, "chat retrieve"),
    ("POST", "/dify/retrieval"): ({"knowledge_id": "handbook", "query": "leave"}, "retrieve"),
    ("POST", "/v1/ask"): ({"question": "hi", "knowledge_bases": ["handbook"]}, "chat"),
    ("POST", "/v1/search"): ({"query": "leave", "knowledge_bases": ["handbook"]}, "retrieve"),
    ("GET", "/v1/knowledge_bases"): (None, "retrieve"),
    ("GET", "/v1/knowledge_bases/handbook"): (None, "retrieve"),
    ("GET", "/v1/knowledge_bases/handbook/documents"): (None, "retrieve"),
    ("GET", "/v1/knowledge_bases/handbook/check"): (None, "ingest"),
    ("GET", "/v1/jobs"): (None, "ingest"),
    ("GET", "/v1/sources"): (None, "ingest"),
    ("GET", "/v1/keys"): (None, "admin"),
    ("GET", "/metrics"): (None, "admin"),
}
ROLES = ("chat", "retrieve", "ingest", "admin")


@pytest.fixture(scope="module")
def http(clients: Clients) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=clients.url, timeout=30) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("role", ROLES)
def test_every_route_for_every_role(clients: Clients, http: httpx.Client, role: str) -> None:
    wrong = []
    for (method, path), (body, roles) in ROUTES.items():
        status = http.request(method, path, json=body, headers=bearer(clients.keys[role])).status_code
        expected = 200 if role == "admin" or role in roles.split() else 403
        if status != expected:
            wrong.append(f"{role}: {method} {path} is {status}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_every_route_that_reads_or_computes(http: httpx.Client) -> None:
    """What is not in it changes something, and is asked of a key of the wrong role in the next test."""
    known = {(method, path.replace(MODEL, "{model}")) for method, path in {*ROUTES, *OPEN}}
    known = {(method, path.replace("/handbook", "/{knowledge_base}")) for method, path in known}
    known = {
        (m, p.replace("/deepwell-embedding", "/{model}").replace("/deepwell-rerank", "/{model}")) for m, p in known
    }
    served = {
        (method.upper(), path) for path, calls in http.get("/openapi.json").json()["paths"].items() for method in calls
    }
    changing = {route for route in served if route[0] in ("DELETE",) or route in CHANGING}
    by_id = {route for route in served if NAMED.search(route[1])}
    assert served - known - changing - by_id == set()


#: paths of one thing
NAMED = re.compile(r"\{(document|job|response)\}")
CHANGING = {
    ("POST", "/v1/knowledge_bases"),
    ("POST", "/v1/knowledge_bases/{knowledge_base}/documents"),
    ("POST", "/v1/knowledge_bases/{knowledge_base}/pause"),
    ("POST", "/v1/knowledge_bases/{knowledge_base}/resume"),
    ("POST", "/v1/knowledge_bases/{knowledge_base}/rechunk"),
    ("POST", "/v1/knowledge_bases/{knowledge_base}/reembed"),
    ("GET", "/v1/knowledge_bases/{knowledge_base}/events"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/sources"),
    ("PATCH", "/v1/sources/{source}"),
    ("POST", "/v1/sources/{source}/sync"),
    ("PUT", "/v1/sources/{source}/documents/{external_id}"),
    ("GET", "/v1/sources/{source}"),
    ("GET", "/v1/sources/{source}/documents"),
}
#: routes of one thing, and routes that change something -> the scope they ask for; asked for things there are not
ONE_THING = {
    ("GET", "/v1/documents/{document}"): "retrieve",
    ("GET", "/v1/documents/{document}/chunks"): "retrieve",
    ("GET", "/v1/documents/{document}/chunks/{chunk}"): "retrieve",
    ("GET", "/v1/documents/{document}/pages"): "retrieve",
    ("GET", "/v1/documents/{document}/pages/{number}"): "retrieve",
    ("GET", "/v1/documents/{document}/pages/{number}/image"): "retrieve",
    ("DELETE", "/v1/documents/{document}"): "ingest",
    ("GET", "/v1/responses/{response}"): "chat",
    ("GET", "/v1/responses/{response}/input_items"): "chat",
    ("DELETE", "/v1/responses/{response}"): "chat",
    ("GET", "/v1/jobs/{job}"): "ingest",
    ("POST", "/v1/jobs/{job}/cancel"): "ingest",
    ("POST", "/v1/jobs/{job}/retry"): "ingest",
    ("POST", "/v1/jobs/{job}/rerun"): "ingest",
    ("POST", "/v1/jobs/{job}/pause"): "ingest",
    ("POST", "/v1/jobs/{job}/resume"): "ingest",
    ("GET", "/v1/jobs/{job}/events"): "ingest",
    ("POST", "/v1/knowledge_bases/{knowledge_base}/pause"): "ingest",
    ("POST", "/v1/knowledge_bases/{knowledge_base}/resume"): "ingest",
    ("POST", "/v1/knowledge_bases/{knowledge_base}/rechunk"): "ingest",
    ("POST", "/v1/knowledge_bases/{knowledge_base}/reembed"): "admin",
    ("GET", "/v1/knowledge_bases/{knowledge_base}/events"): "ingest",
    ("POST", "/v1/knowledge_bases"): "ingest",
    ("POST", "/v1/knowledge_bases/{knowledge_base}/documents"): "ingest",
    ("DELETE", "/v1/knowledge_bases/{knowledge_base}"): "ingest",
    ("GET", "/v1/sources/{source}"): "ingest",
    ("GET", "/v1/sources/{source}/documents"): "ingest",
    ("PATCH", "/v1/sources/{source}"): "ingest",
    ("DELETE", "/v1/sources/{source}"): "ingest",
    ("POST", "/v1/sources"): "ingest",
    ("POST", "/v1/sources/{source}/sync"): "ingest",
    ("PUT", "/v1/sources/{source}/documents/{external_id}"): "ingest",
    ("DELETE", "/v1/sources/{source}/documents/{external_id}"): "ingest",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{key}"): "admin",
}


@pytest.mark.parametrize("role", [*ROLES, ""])
def test_every_route_of_one_thing_and_every_change_for_every_role(
    clients: Clients, http: httpx.Client, role: str
) -> None:
    """Who may is told that there is no such thing, or that the body is no good; nobody else is told anything."""
    wrong = []
    for (method, path), scope in ONE_THING.items():
        named = re.sub(r"\{\w+\}", "1", path)
        status = http.request(method, named, headers=bearer(clients.keys[role]) if role else {}).status_code
        expected = (400, 404) if role in (scope, "admin") else (403,) if role else (401,)
        if status not in expected:
            wrong.append(f"{role or 'nobody'}: {method} {path} is {status}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_no_route_is_left_out(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    one = {
        (method.upper(), path)
        for path, calls in paths.items()
        for method in calls
        if method == "delete" or NAMED.search(path) or (method.upper(), path) in CHANGING
    }
    assert one == set(ONE_THING)


@pytest.mark.parametrize(
    ("path", "status", "fields"),
    [
        ("/v1/chat/completions", 401, {"error"}),
        ("/v1/embeddings", 401, {"error"}),
        ("/api/chat", 401, {"error"}),
        ("/tei/x/rerank", 401, {"error", "error_type"}),
        ("/dify/retrieval", 403, {"error_code", "error_msg"}),
    ],
)
def test_without_a_key_nothing_is_served_and_the_error_has_the_shape_of_the_protocol(
    http: httpx.Client, path: str, status: int, fields: set[str]
) -> None:
    for headers in ({}, {"Authorization": ""}, bearer("wrong"), {"x-api-key": "wrong"}, bearer("dw-" + "x" * 40)):
        answer = http.post(path, headers=headers, json={})
        assert answer.status_code == status
        assert set(answer.json()) == fields
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "wrong" not in answer.text or "unknown API key" in answer.text


def test_every_route_asks_for_a_key(http: httpx.Client) -> None:
    for method, path in ROUTES:
        assert http.request(method, path).status_code in (401, 403), (method, path)


def test_every_header_in_which_clients_send_keys(clients: Clients, http: httpx.Client) -> None:
    for header in ("x-api-key", "api-key"):
        assert http.get("/v1/models", headers={header: clients.key}).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": f"bearer  {clients.key}"}).status_code == 200


def test_a_bound_key_sees_its_own_knowledge_base_and_no_word_of_another(clients: Clients, http: httpx.Client) -> None:
    key = bearer(clients.keys["bound"])
    ids = [model["id"] for model in http.get("/v1/models", headers=key).json()["data"]]
    assert ids == [MODEL, f"{MODEL}-other", f"{MODEL}:nothink", f"{MODEL}-other:nothink"]
    foreign = f"{MODEL}-handbook"
    question = [{"role": "user", "content": "annual leave"}]
    for path, body in [
        ("/v1/chat/completions", {"model": foreign, "messages": question}),
        ("/v1/responses", {"model": foreign, "input": "annual leave"}),
        ("/v1/completions", {"model": foreign, "prompt": "annual leave"}),
        ("/api/chat", {"model": foreign, "messages": question}),
        ("/api/generate", {"model": foreign, "prompt": "annual leave"}),
        ("/api/show", {"model": foreign}),
        ("/v1/search", {"query": "annual leave", "knowledge_bases": ["handbook"]}),
        ("/v1/ask", {"question": "annual leave", "knowledge_bases": ["handbook"]}),
    ]:
        answer = http.post(path, json=body, headers=key)
        assert answer.status_code == 404, path
        assert "twenty-five" not in answer.text.lower()
    everything = http.post("/v1/search", json={"query": "annual leave"}, headers=key).json()["hits"]
    assert {hit["document"] for hit in everything} == {"secret.md"}


def test_too_many_requests_and_answers_are_429_with_a_time_to_wait(clients: Clients, http: httpx.Client) -> None:
    few = [http.get("/api/tags", headers=bearer(clients.keys["few"])) for _ in range(3)]
    assert [answer.status_code for answer in few] == [200, 200, 429]
    assert int(few[2].headers["retry-after"]) >= 1 and set(few[2].json()) == {"error"}

    def ask(_: int) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "SLOW"}], "stream": True}
        return httpx.post(f"{clients.url}/v1/chat/completions", json=body, headers=bearer(clients.keys["slow"]))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded" and refused.headers["retry-after"]
    assert ask(0).status_code == 200, "the place is given back at the end of the stream"


def test_keys_on_the_command_line(clients: Clients, http: httpx.Client) -> None:
    made = clients.running.cli("keys", "create", "n8n", "--scope", "chat", "--kb", "handbook")
    assert {"id", "name", "key", "scopes"} <= set(made)
    assert (made["name"], made["scopes"], made["knowledge_bases"]) == ("n8n", ["chat"], ["handbook"])
    assert http.get("/v1/models", headers=bearer(made["key"])).status_code == 200
    listed = {key["name"]: key for key in clients.running.cli("keys", "list")["keys"]}
    assert listed["n8n"]["id"] == made["id"] and "key" not in listed["n8n"] and made["key"] not in str(listed)
    clients.running.cli("keys", "create", "n8n", code=2)
    clients.running.cli("keys", "create", "x", "--scope", "everything", code=2)
    clients.running.cli("keys", "create", "x", "--kb", "nowhere", code=2)
    clients.running.cli("keys", "create", "x", "--secret", "guessed", "--scope", "admin", code=2)
    assert clients.running.cli("keys", "revoke", "n8n")["revoked"]
    assert http.get("/v1/models", headers=bearer(made["key"])).status_code == 401
    assert "n8n" not in [key["name"] for key in clients.running.cli("keys", "list")["keys"]]
    clients.running.cli("keys", "revoke", "operator", code=2)
