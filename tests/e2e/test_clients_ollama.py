"""Ollama's own SDK and LangChain's against the whole product, whose model thinks and cites."""

import json
from datetime import datetime

import httpx
import ollama
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings

from services.api.ollama import NDJSON
from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL, THINKING

KB = f"{MODEL}-handbook"
QUESTION = [{"role": "user", "content": "How many days of annual leave do full-time staff have?"}]


@pytest.fixture(scope="module")
def sdk(clients: Clients) -> ollama.Client:
    return ollama.Client(host=clients.url, headers={"Authorization": f"Bearer {clients.key}"})


@pytest.fixture(scope="module")
def http(clients: Clients) -> httpx.Client:
    return httpx.Client(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}, timeout=30)


def test_chat_streams_thinking_and_text_apart(sdk: ollama.Client) -> None:
    parts = list(sdk.chat(KB, QUESTION, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == "".join(THINKING)
    assert "".join(part.message.content or "" for part in parts) == "Twenty-five days [1]."
    assert not any(part.message.thinking and part.message.content for part in parts)
    last = parts[-1]
    assert last.done and last.done_reason == "stop" and not any(part.done for part in parts[:-1])
    assert last.prompt_eval_count == 40 and last.eval_count == 9
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(last[name], int)
    assert last.total_duration and last.total_duration > 0


def test_the_wire_is_one_object_a_line(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json={"model": f"{KB}:latest", "messages": QUESTION})
    assert answer.headers["content-type"] == NDJSON
    lines = answer.content.split(b"\n")
    assert lines[-1] == b""
    for line in lines[:-1]:
        frame = json.loads(line)
        assert frame["model"] == KB
        assert datetime.fromisoformat(frame["created_at"]).tzinfo is not None


def test_chat_without_stream_and_without_thinking(sdk: ollama.Client) -> None:
    whole = sdk.chat(MODEL, QUESTION)
    assert whole.message.thinking == "".join(THINKING) and whole.model == MODEL and whole.done
    quiet = sdk.chat(MODEL, QUESTION, think=False)
    assert not quiet.message.thinking and quiet.message.content


def test_a_round_of_tools(sdk: ollama.Client) -> None:
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return f"rain in {city}"

    asked = {"role": "user", "content": "TOOL please"}
    for stream in (False, True):
        answer = sdk.chat(MODEL, [asked], tools=[weather], stream=stream)  # type: ignore[call-overload]
        parts = list(answer) if stream else [answer]
        (message,) = [part.message for part in parts if part.message.tool_calls]
        (call,) = message.tool_calls
        assert (call.function.name, dict(call.function.arguments)) == ("weather", {"city": "Kyoto"})
        result = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
        told = sdk.chat(MODEL, [asked, message, result], tools=[weather])
        assert told.message.content == "The tool says rain in Kyoto."


def test_a_round_of_tools_through_langchain(clients: Clients) -> None:
    headers = {"headers": {"Authorization": f"Bearer {clients.key}"}}
    chat = ChatOllama(model=MODEL, base_url=clients.url, client_kwargs=headers).bind_tools(
        [{"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}]
    )
    message = chat.invoke([HumanMessage("TOOL please")])
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("weather", {"city": "Kyoto"})]
    result = ToolMessage("rain", tool_call_id=message.tool_calls[0]["id"])
    assert chat.invoke([HumanMessage("TOOL please"), message, result]).text == "The tool says rain."


def test_generate(sdk: ollama.Client) -> None:
    whole = sdk.generate(MODEL, "annual leave?", system="Be brief.", options={"num_predict": 50, "stop": ["x"]})
    assert whole.response.startswith("Twenty-five") and whole.thinking == "".join(THINKING)
    parts = list(sdk.generate(KB, "annual leave of full-time staff?", stream=True))
    assert "".join(part.response for part in parts) == "Twenty-five days [1]."
    assert parts[-1].done_reason == "stop"


def test_loading_and_unloading_answers_at_once(sdk: ollama.Client) -> None:
    assert sdk.generate(MODEL, "").done_reason == "load"
    assert sdk.chat(MODEL, []).done_reason == "load"
    assert sdk.generate(MODEL, "", keep_alive=0).done_reason == "unload"


def test_every_model_can_be_shown(sdk: ollama.Client) -> None:
    for listed in sdk.list().models:
        assert sdk.show(str(listed.model)).capabilities
    for name in ("deepwell-embedding", "deepwell-embedding:latest", "multilingual-e5-small"):
        shown = sdk.show(name)
        assert shown.capabilities == ["embedding"]
        assert shown.modelinfo and shown.modelinfo["bert.embedding_length"] == 384


def test_lists_of_models(sdk: ollama.Client) -> None:
    ids = (MODEL, KB, f"{MODEL}-other")
    names = [*(f"{name}:latest" for name in ids), *(f"{name}:nothink" for name in ids)]
    assert [model.model for model in sdk.list().models] == names
    assert [model.model for model in sdk.ps().models] == names
    shown = sdk.show(names[1])
    assert {"completion", "thinking"} <= set(shown.capabilities or [])
    architecture = (shown.modelinfo or {})["general.architecture"]
    assert (shown.modelinfo or {})[f"{architecture}.context_length"] > 0


def test_pull_says_whether_the_model_is_there(sdk: ollama.Client) -> None:
    assert [step.status for step in sdk.pull(MODEL, stream=True)][-1] == "success"
    assert sdk.pull(MODEL).status == "success"
    with pytest.raises(ollama.ResponseError, match=MODEL):
        sdk.pull("llama3")


def test_embeddings(sdk: ollama.Client) -> None:
    both = sdk.embed("multilingual-e5-small:latest", ["a", "b"])
    assert [len(vector) for vector in both.embeddings] == [384, 384] and both.prompt_eval_count
    assert sdk.embed("deepwell-embedding", "a").embeddings[0] == pytest.approx(both.embeddings[0], abs=1e-5)
    assert len(sdk.embeddings("deepwell-embedding", "a").embedding) == 384
    assert len(sdk.embed("deepwell-embedding", "a", dimensions=8).embeddings[0]) == 8


def test_errors_are_a_string_under_error(http: httpx.Client, sdk: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=MODEL) as unknown:
        sdk.chat("llama3", QUESTION)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as refused:
        sdk.chat(MODEL, [{"role": "user", "content": "REFUSE"}], stream=False)
    assert refused.value.status_code in (429, 503)
    images = [{"role": "user", "content": "x", "images": ["aGk="]}]
    for method, path, body, status in [
        ("POST", "/api/chat", {"model": MODEL, "messages": images}, 400),
        ("POST", "/api/chat", {}, 400),
        ("GET", "/api/chat", None, 405),
        ("POST", "/api/push", {"model": MODEL}, 404),
    ]:
        answer = http.request(method, path, json=body)
        assert answer.status_code == status
        assert isinstance(answer.json()["error"], str) and set(answer.json()) == {"error"}


def test_an_answer_that_breaks_off_says_so_in_the_text(http: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "BREAK"}]}
    frames = [json.loads(line) for line in http.post("/api/chat", json=body).text.splitlines()]
    assert not any("error" in frame for frame in frames), "Dify's plugin drops such a line in silence"
    assert frames[-1]["done"] and frames[-1]["done_reason"] == "error"
    assert frames[-2]["message"]["content"].startswith("\n\n[")


def test_signs_of_life(clients: Clients, http: httpx.Client) -> None:
    assert httpx.get(clients.url).text == "Ollama is running"
    assert httpx.head(clients.url).status_code == 200
    assert http.get("/api/version").json()["version"]
    assert http.head("/api/tags").status_code == 200
    assert http.get("/v1/api/tags").json()["models"]


def test_a_client_that_can_only_send_ollama_has_a_key_of_that_name(clients: Clients) -> None:
    assert clients.keys["ollama"] == "ollama"
    answer = httpx.get(f"{clients.url}/v1/models", headers={"Authorization": "Bearer ollama"})
    assert answer.status_code == 200


def test_langchain(clients: Clients) -> None:
    headers = {"client_kwargs": {"headers": {"Authorization": f"Bearer {clients.key}"}}}
    chat = ChatOllama(model=KB, base_url=clients.url, reasoning=True, **headers)
    answer = chat.invoke(QUESTION[0]["content"])
    assert answer.text == "Twenty-five days [1]."
    assert answer.additional_kwargs["reasoning_content"] == "".join(THINKING)
    embedder = OllamaEmbeddings(model="deepwell-embedding", base_url=clients.url, **headers)
    assert len(embedder.embed_query("a")) == 384
