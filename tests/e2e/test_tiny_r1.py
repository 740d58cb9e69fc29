"""A real R1-shaped model in the real llama.cpp, through the whole product, from its GGUF file to the cited answer."""

from collections.abc import Iterator

import httpx
import pytest

from tests import tiny_r1
from tests.e2e.conftest import Running, start, stop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, tiny_r1.TinyR1]]:
    folder = tmp_path_factory.mktemp("tiny-platform")
    tiny = tiny_r1.build(folder)
    platform = start(folder / "data", env={"DEEPWELL_CHAT__THREADS": "1"})
    try:
        platform.cli("models", "import", str(tiny.gguf))
        platform.cli("models", "use", "tiny-deepseek-r1")
        (folder / "handbook.md").write_text("# Leave\n\nFull-time staff have twenty-five days of annual leave.\n")
        platform.cli("add", str(folder / "handbook.md"), "--kb", "handbook")
        yield platform, tiny
    finally:
        stop(platform)


def chat(running: Running, **body: object) -> dict:
    """One answer over the handbook, once the server has switched to the model."""
    headers = {"Authorization": f"Bearer {running.key}"}
    question = {"messages": [{"role": "user", "content": "How many days of annual leave?"}], **body}
    with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
        for _ in range(100):
            answer = client.post("/v1/chat/completions", json={"model": "tiny-deepseek-r1-handbook", **question})
            if answer.status_code != 503:
                break
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_it_thinks_answers_and_cites(running: tuple[Running, tiny_r1.TinyR1]) -> None:
    answer = chat(running[0])
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"].strip() == running[1].thoughts
    assert message["content"] == tiny_r1.ANSWER.replace("[citation:1]", "[1]")
    assert message["annotations"][0]["url_citation"]["title"] == "handbook.md"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == pytest.approx(160, abs=3)


@pytest.mark.parametrize(("wish", "least", "most"), [
    ({"thinking_budget": 50}, 45, 55),
    ({"chat_template_kwargs": {"thinking_budget": 30}}, 27, 33),
    ({"reasoning_effort": "none"}, 0, 0),
    ({"model": "tiny-deepseek-r1-handbook:nothink"}, 0, 0),
])  # fmt: skip
def test_as_much_as_the_client_wants(
    running: tuple[Running, tiny_r1.TinyR1], wish: dict, least: int, most: int
) -> None:
    answer = chat(running[0], **wish)
    message = answer["choices"][0]["message"]
    thought = tiny_r1.make_tokenizer().encode(message.get("reasoning_content", "").strip(), add_special_tokens=False)
    assert least <= len(thought.ids) <= most
    assert message["content"] == tiny_r1.ANSWER.replace("[citation:1]", "[1]")


def test_a_small_limit_still_leaves_an_answer(running: tuple[Running, tiny_r1.TinyR1]) -> None:
    answer = chat(running[0], max_tokens=64)
    assert answer["choices"][0]["message"]["content"].startswith("Three times")
    assert answer["usage"]["completion_tokens"] <= 64
