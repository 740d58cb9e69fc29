"""OpenAI's own SDK and LangChain's against the whole product, whose model thinks and cites."""

import json
import math
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.e2e.conftest import Clients
from tests.e2e.upstream import MODEL, THINKING

KB = f"{MODEL}-handbook"
QUESTION = "How many days of annual leave do full-time staff have?"
EMBEDDER = "multilingual-e5-small"


@pytest.fixture(scope="module")
def sdk(clients: Clients) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{clients.url}/v1", api_key=clients.key, max_retries=0)


@pytest.fixture(scope="module")
def http(clients: Clients) -> httpx.Client:
    return httpx.Client(base_url=clients.url, headers={"Authorization": f"Bearer {clients.key}"}, timeout=30)


# -- responses -----------------------------------------------------------------------------------------------------


def test_responses_without_stream(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=KB, input=QUESTION)
    assert answer.status == "completed"
    assert answer.output_text == "Twenty-five days [1]."
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].summary[0].text == "".join(THINKING)  # type: ignore[union-attr]
    note = answer.output[1].content[0].annotations[0]  # type: ignore[union-attr]
    assert note.type == "url_citation" and note.title == "handbook.md"
    assert answer.output_text[note.start_index : note.end_index] == "[1]"
    assert answer.usage and answer.usage.output_tokens == 9 and answer.usage.total_tokens == 49


def test_responses_as_n8n_sends_them(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(
        model=MODEL,
        instructions="Be brief.",
        text={},
        input=[
            {"type": "message", "role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},  # type: ignore[list-item]
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
        ],
    )
    assert "Twenty-five" in answer.output_text
    assert answer.instructions == "Be brief."


def test_the_events_of_a_streamed_response_come_in_order_and_are_numbered(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model=KB, input=QUESTION, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    thinking = ["response.reasoning_summary_text.delta"] * 3
    assert kinds[2:10] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        *thinking,
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    assert kinds[10:12] == ["response.output_item.added", "response.content_part.added"]
    assert kinds[-5:] == [
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[12:-5]) == {"response.output_text.delta"}
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response  # type: ignore[union-attr]
    assert text == last.output_text == "Twenty-five days [1]."
    assert last.usage and last.usage.output_tokens_details is not None
    indices = [(event.type, event.output_index) for event in events if hasattr(event, "output_index")]
    assert {index for kind, index in indices if "reasoning" in kind} == {0}
    assert {index for kind, index in indices if "output_text" in kind} == {1}


def test_the_sdks_own_accumulator_reads_the_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model=KB, input=QUESTION) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "Twenty-five days [1]."


def test_a_response_that_breaks_off_raises_in_the_sdk(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match=r"(?i)model server|connection"):
        for _ in sdk.responses.create(model=MODEL, input="BREAK", stream=True):
            pass


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_model_server_refuses_at_once_is_a_status(sdk: openai.OpenAI, stream: bool) -> None:
    for call in (
        lambda: sdk.responses.create(model=MODEL, input="REFUSE", stream=stream),
        lambda: sdk.completions.create(model=MODEL, prompt="REFUSE", stream=stream),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            call()
        assert refused.value.status_code in (429, 503)


def test_a_response_is_kept_for_its_key_and_goes_on(sdk: openai.OpenAI, clients: Clients) -> None:
    first = sdk.responses.create(model=MODEL, input="How many days of leave?")
    assert first.store is True
    again = sdk.responses.retrieve(first.id)
    assert (again.id, again.output_text, again.status) == (first.id, first.output_text, "completed")
    assert sdk.responses.input_items.list(first.id).data[0].content == "How many days of leave?"  # type: ignore[union-attr]
    second = sdk.responses.create(model=MODEL, input="And for part-time?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert len(sdk.responses.input_items.list(second.id).data) == 4, "question, thinking, answer, question"
    referred = [{"type": "item_reference", "id": item.id} for item in first.output]
    sdk.responses.create(model=MODEL, input=[*referred, {"role": "user", "content": "And?"}])  # type: ignore[list-item]
    other = openai.OpenAI(base_url=f"{clients.url}/v1", api_key=clients.keys["chat"], max_retries=0)
    with pytest.raises(openai.NotFoundError, match="no response"):
        other.responses.retrieve(first.id)
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="no response"):
        sdk.responses.retrieve(first.id)


def test_what_is_not_kept_is_refused_in_words(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="whole conversation") as refused:
        sdk.responses.create(model=MODEL, input="x", previous_response_id="resp_1")
    assert refused.value.code == "previous_response_not_found"
    unkept = sdk.responses.create(model=MODEL, input="How many days?", store=False)
    assert unkept.store is False
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(unkept.id)
    with pytest.raises(openai.NotFoundError, match="item"):
        sdk.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "msg_1"}])


# -- tools ---------------------------------------------------------------------------------------------------------

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED: Any = {"role": "user", "content": "TOOL please: annual leave?"}


@pytest.mark.parametrize("model", [MODEL, KB])
def test_a_round_of_tools_streamed_and_not(sdk: openai.OpenAI, model: str) -> None:
    whole = sdk.chat.completions.create(model=model, messages=[ASKED], tools=[WEATHER]).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or []
    assert (call.id, call.function.name) == ("call_1", "weather")  # type: ignore[union-attr]
    with sdk.chat.completions.stream(model=model, messages=[ASKED], tools=[WEATHER]) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls[0].function.arguments == '{"city": "Kyoto"}'  # type: ignore[index]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    turns = [ASKED, whole.message.model_dump(exclude_none=True), result]
    raw = sdk.chat.completions.with_raw_response.create(model=model, messages=turns, tools=[WEATHER])
    assert raw.parse().choices[0].message.content == "The tool says rain."
    assert "tools" not in raw.headers.get("x-ignored-params", "")


def test_a_round_of_tools_over_responses(sdk: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    first = sdk.responses.create(model=MODEL, input=ASKED["content"], tools=[tool])
    call = first.output[-1]
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city": "Kyoto"}')  # type: ignore[union-attr]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}  # type: ignore[union-attr]
    for given in (
        {"input": [output], "previous_response_id": first.id},
        {"input": [ASKED, *[item.model_dump(exclude_none=True) for item in first.output], output]},
    ):
        assert sdk.responses.create(model=MODEL, tools=[tool], **given).output_text == "The tool says rain."


def test_a_round_of_tools_through_langchain(clients: Clients) -> None:
    for responses in (False, True):
        chat = ChatOpenAI(model=MODEL, base_url=f"{clients.url}/v1", api_key=clients.key, use_responses_api=responses)  # type: ignore[arg-type]
        bound = chat.bind_tools([WEATHER])
        message = bound.invoke([HumanMessage(ASKED["content"])])
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("weather", {"city": "Kyoto"})]
        result = ToolMessage("rain", tool_call_id=message.tool_calls[0]["id"])
        assert bound.invoke([HumanMessage(ASKED["content"]), message, result]).text == "The tool says rain."


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/v1/chat/completions", {"messages": [ASKED], "n": 2}, "n"),
        ("/v1/completions", {"prompt": "How many days?", "best_of": 2, "tools": [WEATHER]}, "best_of, tools"),
        ("/v1/responses", {"input": "How many days?", "truncation": "auto"}, "truncation"),
        ("/api/chat", {"messages": [ASKED], "options": {"num_ctx": 9}, "format": "json"}, "format, num_ctx"),
        ("/api/generate", {"prompt": "How many days?", "keep_alive": "5m", "stream": False}, "keep_alive"),
    ],
)
def test_what_has_no_effect_is_named_on_every_route(
    http: httpx.Client, path: str, body: dict[str, Any], ignored: str
) -> None:
    answer = http.post(path, json={"model": MODEL, **body})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == ignored


# -- completions ---------------------------------------------------------------------------------------------------


def test_completions_with_one_prompt_and_several(sdk: openai.OpenAI) -> None:
    one = sdk.completions.create(model=KB, prompt=QUESTION)
    assert one.object == "text_completion"
    assert one.choices[0].text == "Twenty-five days [1]." and one.choices[0].finish_reason == "stop"
    two = sdk.completions.create(model=MODEL, prompt=["a", "b"])
    assert [choice.index for choice in two.choices] == [0, 1]
    assert one.usage and two.usage and two.usage.completion_tokens == 2 * one.usage.completion_tokens


def test_completions_streamed(sdk: openai.OpenAI) -> None:
    frames = list(sdk.completions.create(model=MODEL, prompt=["a", "b"], stream=True))
    assert {frame.id for frame in frames} == {frames[0].id}
    assert [c.finish_reason for f in frames for c in f.choices if c.finish_reason] == ["stop", "stop"]
    assert sum(frame.usage is not None for frame in frames) == 1
    asked = list(sdk.completions.create(model=MODEL, prompt="a", stream=True, stream_options={"include_usage": True}))
    assert asked[-1].choices == [] and asked[-1].usage is not None
    assert sum(frame.usage is not None for frame in asked) == 1


def test_token_arrays_are_refused(sdk: openai.OpenAI) -> None:
    for call in (
        lambda: sdk.completions.create(model=MODEL, prompt=[1, 2]),
        lambda: sdk.embeddings.create(model=EMBEDDER, input=[[1, 2], [3]]),
    ):
        with pytest.raises(openai.BadRequestError, match="token numbers"):
            call()


# -- embeddings ----------------------------------------------------------------------------------------------------


def test_embeddings_in_both_encodings_are_the_same(sdk: openai.OpenAI) -> None:
    coded = sdk.embeddings.create(model=EMBEDDER, input=["annual leave", "年次休暇"])
    plain = sdk.embeddings.create(model=EMBEDDER, input=["annual leave", "年次休暇"], encoding_format="float")
    for one, other in zip(coded.data, plain.data, strict=True):
        assert one.index == other.index and len(one.embedding) == 384
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-3)
    assert coded.usage.prompt_tokens == coded.usage.total_tokens > 0


def test_fewer_dimensions_are_normalised_and_more_are_refused(sdk: openai.OpenAI) -> None:
    short = sdk.embeddings.create(model=EMBEDDER, input="x", dimensions=64).data[0].embedding
    whole = sdk.embeddings.create(model=EMBEDDER, input="x").data[0].embedding
    norm = math.hypot(*whole[:64])
    assert short == pytest.approx([value / norm for value in whole[:64]], abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="384"):
        sdk.embeddings.create(model=EMBEDDER, input="x", dimensions=385)


def test_an_unknown_embedding_model_is_a_404_with_the_names(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=EMBEDDER):
        sdk.embeddings.create(model="text-embedding-3-small", input="x")


def test_langchain(clients: Clients) -> None:
    chat = ChatOpenAI(model=KB, base_url=f"{clients.url}/v1", api_key=clients.key, stream_usage=True)  # type: ignore[arg-type]
    assert chat.invoke(QUESTION).text.startswith("Twenty-five days [1]")
    usage = None
    for chunk in chat.stream(QUESTION):
        usage = chunk.usage_metadata or usage
    assert usage and usage["total_tokens"] == 49
    responses = ChatOpenAI(model=KB, base_url=f"{clients.url}/v1", api_key=clients.key, use_responses_api=True)  # type: ignore[arg-type]
    assert "".join(chunk.text for chunk in responses.stream(QUESTION)).startswith("Twenty-five days [1]")
    embedder = OpenAIEmbeddings(
        model=EMBEDDER,
        base_url=f"{clients.url}/v1",
        api_key=clients.key,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert len(embedder.embed_documents(["a", "b"])[1]) == 384


# -- rerank --------------------------------------------------------------------------------------------------------

CAPITALS = [
    "Carson City is the capital city of the American state of Nevada.",
    "Washington, D.C. is the capital of the United States.",
    "The Mariana Islands are a chain of islands in the Pacific.",
]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank", "/v1/v1/rerank", "/api/rerank", "//rerank"])
def test_rerank_at_every_path(clients: Clients, http: httpx.Client, path: str) -> None:
    query = "What is the capital of the United States?"
    body = {"query": query, "documents": CAPITALS, "top_n": None, "return_documents": True, "kwargs": "{}"}
    answer = http.post(clients.url + path, json=body).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert answer["results"][0]["index"] == 1
    assert scores == sorted(scores, reverse=True) and scores[-1] >= 0 and scores[0] <= 1
    assert ("document" in answer["results"][0]) == (path != "/api/rerank")
    assert answer["meta"]["billed_units"]["search_units"] == 1


def test_rerank_of_texts_is_the_bare_list_of_tei(http: httpx.Client) -> None:
    answer = http.post("/rerank", json={"query": "islands", "texts": CAPITALS, "return_text": True}).json()
    assert answer[0]["index"] == 2 and answer[0]["text"] == CAPITALS[2] and len(answer) == 3


def test_rerank_understands_across_languages(http: httpx.Client) -> None:
    body = {
        "query": "有給休暇は何日ですか",
        "documents": ["The canteen opens at noon.", "Staff get 25 days of paid leave."],
    }
    assert http.post("/v1/rerank", json=body).json()["results"][0]["index"] == 1


# -- paths, models, CORS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "/v1", "/v1/v1", "/v1-openai", "/v1/", "//v1"])
def test_every_base_url_works(clients: Clients, base: str) -> None:
    sdk = openai.OpenAI(base_url=clients.url + base, api_key=clients.key, max_retries=0)
    done = sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert done.choices[0].message.content
    assert sdk.embeddings.create(model=EMBEDDER, input="x").data
    assert MODEL in [model.id for model in sdk.models.list()]


def test_a_preflight_needs_no_key(clients: Clients) -> None:
    headers = {
        "Origin": "http://localhost:3210",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,openai-beta",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = httpx.options(f"{clients.url}/v1/chat/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3210"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    foreign = httpx.options(f"{clients.url}/v1/models", headers=headers | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers
    refused = httpx.get(f"{clients.url}/v1/models", headers={"Origin": "http://localhost:3210"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3210", "the page may read the error"


def test_a_long_answer_without_stream_is_still_json(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "SLOW"}]})
    message = json.loads(answer.content)["choices"][0]["message"]
    assert message["reasoning_content"] == "".join(THINKING)
