"""The wire lint on the running server: chat streams, what comes before them, and the errors of every protocol."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL
from tests.wire import lint, lint_broken

KB = f"{MODEL}-handbook"
QUESTION = "How many days of annual leave do full-time staff have?"
#: every field of the contract's section 0.3, in values that make no sense together
FIELDS: dict[str, Any] = {
    "user": "u", "user_id": "u", "stop": ["x"], "seed": 1, "n": 1, "logit_bias": {}, "logprobs": False,
    "frequency_penalty": 0.1, "presence_penalty": 0.1, "top_k": 5, "max_tokens": 900, "max_completion_tokens": 900,
    "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}, "tools": [], "tool_choice": "auto",
    "functions": [], "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True,
    "verbosity": "low", "enable_thinking": True, "thinking": {"type": "enabled"}, "reasoning_format": "auto",
    "chat_template_kwargs": {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"},
    "reasoning_effort": "low", "reasoning": {"effort": "low", "enabled": True}, "think": "low",
    "stream_options": {"include_usage": False}, "temperature": 0, "top_p": 1, "something_else": [None],
}  # fmt: skip
HISTORY = [
    {"role": "developer", "content": "Be brief.", "name": "x"},
    {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": None, "reasoning_content": "…", "reasoning": "…", "thinking": "…"},
    {"role": "assistant", "content": "<think>\nx\n</think>\n\nHello.", "reasoning_details": [{}]},
    {"role": "tool", "content": "42", "tool_call_id": "t"},
    {"role": "function", "content": "42", "name": "f"},
]


@pytest.fixture(scope="module")
def http(clients: Clients) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}, timeout=60) as client:
        yield client


def body(content: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": KB, "messages": [{"role": "user", "content": content}], "stream": True, **fields}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1/v1/chat/completions"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_keeps_every_rule(http: httpx.Client, path: str, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    answer = http.post(path, json=body(**options), headers={"Accept-Encoding": "gzip, br"})
    lint(answer.content, usage_asked=usage)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked" and "content-encoding" not in answer.headers, "W15"


@pytest.mark.parametrize("form", ["reasoning", "think_tags", "none"])
def test_every_form_of_thinking_keeps_the_rules(http: httpx.Client, form: str) -> None:
    lint(http.post("/v1/chat/completions", json=body(reasoning_format=form)).content, form=form)
    headers = {"X-OpenWebUI-User-Id": "u"}
    lint(http.post("/v1/chat/completions", json=body(reasoning_format=form), headers=headers).content, form=form)


def test_tokens_come_in_blocks_of_their_own(clients: Clients) -> None:
    """W15: chunked, and each chunk of HTTP holds whole frames: what came at once from the model may go on at once."""
    place = urlsplit(clients.url)
    data = json.dumps(body()).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {clients.key}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as connection:
        connection.sendall(head.encode() + data)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    chunks, rest = [], received.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    lint(b"".join(chunks))
    assert len(chunks) > 2 and all(chunk.endswith(b"\n\n") for chunk in chunks if chunk)


def test_headers_come_while_the_model_is_still_silent(clients: Clients, http: httpx.Client) -> None:
    began = time.monotonic()
    with http.stream("POST", "/v1/chat/completions", json=body("LONG leave")) as answer:
        assert answer.status_code == 200 and time.monotonic() - began < 40, "W14"
        assert next(answer.iter_bytes()).startswith(b'data: {"id":"chatcmpl-')


def test_what_is_known_before_the_answer_is_a_status(http: httpx.Client) -> None:
    for wrong, status in [(body("REFUSE leave"), 503), (body(model="gpt-4o"), 404), (body(messages=[]), 400)]:
        answer = http.post("/v1/chat/completions", json=wrong)
        assert answer.status_code == status, "W13"
        assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert not {"budget_tokens", "max_output_tokens"} & set(answer.json()["error"]["message"].split())
    unknown = http.post("/v1/chat/completions", json=body(model="gpt-4o")).json()["error"]
    assert unknown["code"] == "model_not_found" and KB in unknown["message"]


def test_an_answer_that_breaks_off_ends_in_an_error_frame(http: httpx.Client) -> None:
    assert "model server" in lint_broken(http.post("/v1/chat/completions", json=body("BREAK leave")).content)


def test_no_field_of_the_contract_is_refused(http: httpx.Client) -> None:
    messages = [
        *HISTORY,
        {"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "file", "file": {}}]},
    ]
    counted = FIELDS | {"stream_options": {"include_usage": True}}
    lint(http.post("/v1/chat/completions", json=body(messages=messages, **counted)).content, usage_asked=True)
    for name, value in FIELDS.items():
        answer = http.post("/v1/chat/completions", json=body("hello", **{name: value, "stream": False}))
        assert answer.status_code == 200, f"{name}: {answer.text}"
        nothing = http.post("/v1/chat/completions", json=body("hello", **{name: None, "stream": False}))
        assert nothing.status_code == 200, f"{name} null: {nothing.text}"


def test_the_whole_body_has_what_clients_index_unguarded(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json=body(stream=False)).json()
    assert answer["object"] == "chat.completion"
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer["usage"])
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant" and isinstance(message["content"], str)


def test_models_have_no_null_in_them(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    for model in listed["data"]:
        assert None not in model.values() and model["object"] == "model" and isinstance(model["created"], int)
        assert not set("/?#") & set(model["id"])


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"model": "\xff\xfe"}', 400),
        (b"[]", 400),
        (b'"x"', 400),
        (gzip.compress(b"{}"), 400),
        (b'{"model": 5, "messages": "x"}', 400),
        (b'{"model": "m", "messages": [{"role": "alien", "content": "x"}]}', 400),
        (b"[" * 100_000, 400),
        (json.dumps({"model": KB, "messages": [{"role": "user", "content": "x"}] * 5000}).encode(), 200),
        (json.dumps({"model": KB, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]}).encode(), 400),
        (b" " * (33 << 20), 413),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/responses", "/v1/embeddings", "/v1/rerank"])
def test_bad_input_is_an_error_in_the_shape_of_the_protocol(
    http: httpx.Client, path: str, content: bytes, status: int
) -> None:
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    if status == 200 and path in ("/v1/chat/completions", "/api/chat"):
        assert answer.status_code == 200
        return
    assert 400 <= answer.status_code < 500
    assert answer.status_code == status or path not in ("/v1/chat/completions", "/api/chat")
    error = answer.json()["error"]
    assert isinstance(error, str) if path == "/api/chat" else isinstance(error["message"], str)
    assert "detail" not in answer.json() and "Traceback" not in answer.text


@pytest.mark.slow
def test_a_long_silence_has_its_signs_of_life(http: httpx.Client) -> None:
    """Comments in a stream, white space before JSON, while the model says nothing for 45 s."""
    with ThreadPoolExecutor(2) as pool:
        streamed = pool.submit(http.post, "/v1/chat/completions", json=body("LONG leave"), timeout=90)
        whole = pool.submit(http.post, "/v1/chat/completions", json=body("LONG leave", stream=False), timeout=90)
        assert streamed.result().content.count(b": keep-alive\n\n") >= 3
        lint(streamed.result().content)
        assert whole.result().content.startswith(b"  ") and whole.result().json()["choices"]
