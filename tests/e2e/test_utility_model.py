"""Clients' titles and tags by a small model of their own, and without it when it is away."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Running, start, stop
from tests.e2e.upstream import MODEL, Upstream

pytestmark = pytest.mark.slow
TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Chat History:\n"
    "<chat_history>\nUSER: How is leave recorded?\nASSISTANT: By HR.\n</chat_history>"
)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Running, Upstream]]:
    """A platform whose main model is nowhere, and whose utility model is the upstream."""
    upstream = Upstream()
    upstream.start()
    chat = {"SERVER": "openai", "URL": upstream.url, "MODEL": MODEL}
    chat |= {"UTILITY_MODEL": "small-model", "UTILITY_URL": upstream.url}
    running = start(tmp_path / "data", env={f"DEEPWELL_CHAT__{name}": value for name, value in chat.items()})
    yield running, upstream
    stop(running)
    upstream.stop()


def test_a_title_comes_from_the_utility_model_and_without_it_from_the_words(platform: tuple[Running, Upstream]) -> None:
    running, upstream = platform

    def title() -> dict[str, object]:
        body = {"model": MODEL, "messages": [{"role": "user", "content": TITLE}]}
        headers = {"Authorization": f"Bearer {running.key}"}
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    by_model = title()["choices"][0]["message"]["content"]  # type: ignore[index]
    assert by_model.startswith("Twenty-five"), "what this upstream says to everything"
    upstream.stop()
    without = title()
    assert json.loads(without["choices"][0]["message"]["content"]) == {"title": "How is leave recorded"}  # type: ignore[index]
    assert "utility model" in without["warnings"][0]  # type: ignore[index]
