"""How answers come to each kind of client: its own requests, thinking, citations, links that open without a key."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL, THINKING

KB = f"{MODEL}-handbook"
QUESTION = "How many days of annual leave do full-time staff have?"
ANSWER = "Twenty-five days [1]."
THOUGHT = "".join(THINKING)


@pytest.fixture(scope="module")
def http(clients: Clients) -> httpx.Client:
    return httpx.Client(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}, timeout=30)


def chat(content: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": KB, "messages": [{"role": "user", "content": content}], **fields}


def message(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json=chat(**fields), headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0]["message"])


def frames(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> list[dict[str, Any]]:
    body = http.post("/v1/chat/completions", json=chat(stream=True, **fields), headers=headers).text
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]


def deltas(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> list[dict[str, Any]]:
    return [f["choices"][0]["delta"] for f in frames(http, headers, **fields) if f["choices"]]


# -- clients' own requests -----------------------------------------------------------------------------------------


def test_a_ping_is_answered_without_search_and_thinking(http: httpx.Client) -> None:
    body = chat("ping", max_tokens=5)
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "pong"}
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer["usage"])
    assert "search_results" not in answer
    for path, request, read in [
        ("/v1/responses", {"model": KB, "input": "Hi"}, lambda a: a["output"][0]["content"][0]["text"]),
        ("/v1/completions", {"model": KB, "prompt": "ping"}, lambda a: a["choices"][0]["text"]),
        ("/api/chat", {**chat("hello"), "stream": False}, lambda a: a["message"]["content"]),
        ("/api/generate", {"model": KB, "prompt": "ping", "stream": False}, lambda a: a["response"]),
    ]:
        said = read(http.post(path, json=request).json())
        assert said in ("pong", "Hello. What would you like to know?"), path


def test_so_few_tokens_go_to_the_model_without_search(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json=chat(max_tokens=16)).json()
    assert "search_results" not in answer and answer["choices"][0]["message"]["content"]


def test_open_webuis_task_comes_as_json_in_the_content(http: httpx.Client) -> None:
    task = (
        "### Task:\nSuggest 3-5 relevant follow-up questions or prompts\n### Chat History:\n<chat_history>\n"
        f"USER: {QUESTION}\nASSISTANT: {ANSWER}\n</chat_history>"
    )
    said = message(http, content=task)
    assert set(said) == {"role", "content"} and len(json.loads(said["content"])["follow_ups"]) == 3
    assert "".join(d.get("content", "") for d in deltas(http, content=task)) == said["content"]


def test_a_question_is_still_a_question(http: httpx.Client) -> None:
    assert message(http)["content"] == ANSWER


# -- thinking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, {"content": ANSWER, "reasoning_content": THOUGHT}),
        ("auto", {"content": ANSWER, "reasoning_content": THOUGHT}),
        ("reasoning", {"content": ANSWER, "reasoning": THOUGHT}),
        ("think_tags", {"content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"}),
        ("none", {"content": ANSWER}),
    ],
)
def test_thinking_in_every_form(http: httpx.Client, form: str | None, expected: dict[str, str]) -> None:
    fields = {} if form is None else {"reasoning_format": form}
    said = message(http, **fields)
    notes = said.pop("annotations")
    assert said == {"role": "assistant", **expected}
    span = notes[0]["url_citation"]
    assert said["content"][span["start_index"] : span["end_index"]] == "[1]"
    streamed = deltas(http, **fields)
    for field, whole in expected.items():
        assert "".join(delta.get(field) or "" for delta in streamed) == whole
    names = {name for delta in streamed for name in delta} - {"role", "annotations"}
    assert names == set(expected)
    late = next(delta["annotations"][0]["url_citation"] for delta in streamed if "annotations" in delta)
    assert (late["start_index"], late["end_index"]) == (span["start_index"], span["end_index"])


def test_each_tag_stands_in_a_frame_of_its_own(http: httpx.Client) -> None:
    pieces = [delta.get("content") for delta in deltas(http, reasoning_format="think_tags")]
    assert pieces.count("<think>") == 1 and pieces.count("</think>") == 1
    assert not [piece for piece in pieces if piece and "think>" in piece and piece not in ("<think>", "</think>")]


def test_a_header_and_a_key_say_the_form_too_and_the_request_wins(clients: Clients, http: httpx.Client) -> None:
    header = {"X-Deepwell-Reasoning-Format": "none"}
    assert "reasoning_content" not in message(http, header)
    key = http.post("/v1/keys", json={"name": "old", "reasoning_format": "think_tags", "client": "chatbox"}).json()
    assert (key["reasoning_format"], key["client"], key["sources_list"]) == ("think_tags", "chatbox", None)
    bearer = {"Authorization": f"Bearer {key['key']}"}
    said = message(http, bearer)["content"]
    assert said.startswith("<think>") and "**Sources**" in said
    assert message(http, bearer, reasoning_format="reasoning_content", sources_list=False)["content"] == ANSWER
    assert message(http, {**bearer, "X-Deepwell-Sources-List": "false"}, reasoning_format="none")["content"] == ANSWER
    for wrong in ({"client": "netscape"}, {"reasoning_format": "loud"}):
        assert http.post("/v1/keys", json={"name": "wrong", **wrong}).status_code == 400
    made = clients.running.cli("keys", "create", "webui", "--client", "openwebui", "--no-sources-list")
    assert (made["client"], made["sources_list"]) == ("openwebui", False)


# -- citations -----------------------------------------------------------------------------------------------------


def test_search_results_come_once_with_the_first_text(http: httpx.Client) -> None:
    with_results = [frame for frame in frames(http) if "search_results" in frame]
    assert len(with_results) == 1 and with_results[0]["choices"][0]["delta"]["content"]
    result = with_results[0]["search_results"][0]
    assert result["title"] == "handbook.md" and result["url"].startswith("http") and result["score"] > 0
    assert {"snippet", "document_id", "chunk_id", "page"} <= set(result)


def test_a_list_of_sources_behind_the_answer(http: httpx.Client) -> None:
    said = message(http, sources_list=True)
    url = said["annotations"][0]["url_citation"]["url"]
    assert said["content"] == f"{ANSWER}\n\n---\n**Sources**\n\n- [1] [handbook.md]({url})\n"
    japanese = message(http, content="年次休暇は何日ですか", sources_list=True)["content"]
    assert "**出典**" in japanese
    line = http.post("/api/chat", json=chat(), headers={"X-Deepwell-Sources-List": "true"}).text
    assert "**Sources**" in "".join(json.loads(each)["message"]["content"] for each in line.splitlines())


def test_open_webui_gets_its_cards(http: httpx.Client) -> None:
    header = {"X-OpenWebUI-Chat-Id": "c-1"}
    got = frames(http, header)
    events = [frame["event"] for frame in got if "event" in frame]
    assert all(frame["choices"] == [] for frame in got if "event" in frame)
    assert [event["type"] for event in events] == ["status", "source", "status"]
    assert [events[0]["data"]["done"], events[2]["data"]["done"]] == [False, True]
    card = events[1]["data"]
    assert "twenty-five days" in card["document"][0] and card["source"]["name"] == "handbook.md"
    assert 0 < card["distances"][0] <= 1
    note = next(f["choices"][0]["delta"]["annotations"][0] for f in got if "annotations" in str(f["choices"]))
    assert note["url_citation"]["url"] == card["metadata"][0]["source"] == card["source"]["url"], "one source, one card"
    assert not [frame for frame in frames(http) if "event" in frame]
    plain = http.post("/v1/chat/completions", json={**chat(stream=True), "model": MODEL}, headers=header).text
    assert '"event"' not in plain


def test_a_link_opens_without_a_key_as_a_page_in_the_readers_language(http: httpx.Client) -> None:
    url = message(http)["annotations"][0]["url_citation"]["url"]
    page = httpx.get(url, headers={"Accept": "text/html", "Accept-Language": "ja"})
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert '<html lang="ja">' in page.text and "<mark>" in page.text and "handbook.md" in page.text
    assert "script" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    data = httpx.get(url, headers={"Accept": "application/json"}).json()
    assert data["quote"] in data["text"] and "twenty-five days" in data["quote"]
    assert httpx.head(url).status_code == 200
    assert message(http)["annotations"][0]["url_citation"]["url"] == url, "stable"


def test_a_link_that_was_not_signed_opens_nothing(clients: Clients, http: httpx.Client) -> None:
    url = message(http)["annotations"][0]["url_citation"]["url"]
    head, _, token = url.rpartition("/")
    for wrong in (token[:-6] + "AAAAAA", "x", token[::-1]):
        page = httpx.get(f"{head}/{wrong}")
        assert page.status_code == 404 and "text/html" in page.headers["content-type"]
        error = httpx.get(f"{head}/{wrong}", headers={"Accept": "application/json"})
        assert error.json()["error"]["code"] == "not_found"
        assert "twenty-five" not in page.text.lower()


def test_a_link_to_a_removed_document_opens_nothing(clients: Clients, http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("# Parking\n\nParking permits cost seven euros a month.\n")
    document = clients.running.cli("add", str(tmp_path / "gone.md"), "--kb", "gone")["documents"][0]
    asked = {**chat("What do parking permits cost?"), "model": f"{MODEL}-gone"}
    url = http.post("/v1/chat/completions", json=asked).json()["search_results"][0]["url"]
    assert "seven euros" in httpx.get(url).text
    assert http.delete(f"/v1/documents/{document['id']}").status_code == 200
    assert httpx.get(url).status_code == 404
    assert http.delete("/v1/knowledge_bases/gone").status_code == 200


def test_what_to_paste_is_what_answers(clients: Clients) -> None:
    """The address for this machine is tried; the one for containers has the same port and a name they know."""
    found = clients.running.cli("endpoint", "show", "--for", "python")
    fields = found["fields"]
    body = {"model": fields["model"], "messages": [{"role": "user", "content": QUESTION}]}
    answer = httpx.post(
        f"{fields['base_url']}/chat/completions", json=body, headers={"Authorization": f"Bearer {fields['api_key']}"}
    )
    assert answer.status_code == 200 and fields["model"] in found["models"]
    dify = clients.running.cli("endpoint", "show", "--for", "dify")
    port = clients.url.rpartition(":")[2]
    assert dify["fields"]["API endpoint URL"] == f"http://host.docker.internal:{port}/v1"
    assert dify["listens_on"] == "127.0.0.1" and dify["reachable_from_containers"] is False


def test_what_was_left_out_is_said_on_every_surface(http: httpx.Client) -> None:
    """More tokens than the window has are wanted: the answer is limited, and says so."""
    most, asked = 100_000, {"model": KB, "stream": False}
    messages = [{"role": "user", "content": QUESTION}]
    for path, body in [
        ("/v1/chat/completions", {"messages": messages, "max_tokens": most}),
        ("/v1/completions", {"prompt": QUESTION, "max_tokens": most}),
        ("/v1/responses", {"input": QUESTION, "max_output_tokens": most}),
        ("/api/chat", {"messages": messages, "options": {"num_predict": most}}),
        ("/api/generate", {"prompt": QUESTION, "options": {"num_predict": most}}),
    ]:
        found = http.post(path, json={**asked, **body}).json()
        assert [warning.startswith("answer limited to") for warning in found["warnings"]] == [True], path


@pytest.mark.parametrize(
    "model", ["deepseek-v4-flash", "deepseek-v4-pro", "deepwell", f"{MODEL}:latest", f"{KB}:latest"]
)
def test_other_names_of_the_same_models(http: httpx.Client, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.json()["model"] == model
    assert bool(answer.json().get("search_results")) is model.startswith(KB)
