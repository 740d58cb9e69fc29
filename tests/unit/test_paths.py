"""Every way in which a client joins its base URL to a path leads to the one path that is served."""

import pytest

from services.paths import canonical, segments_of

SEGMENTS = segments_of(
    [
        "/v1/models",
        "/v1/models/{model}",
        "/v1/chat/completions",
        "/v1/rerank",
        "/v1/embeddings",
        "/api/chat",
        "/healthz",
    ]
)


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("//chat/completions", "/v1/chat/completions"),
        ("/v1//chat///completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/rerank", "/v1/rerank"),
        ("/v1-openai/chat/completions", "/v1/chat/completions"),
        ("/models/deepwell", "/v1/models/deepwell"),
        ("/models/v1", "/v1/models/v1"),
        ("/v1/models/v1/v1", "/v1/models/v1/v1"),
        ("/v2/rerank", "/v1/rerank"),
        ("/rerank", "/v1/rerank"),
        ("/api/rerank", "/api/rerank"),
        ("/v1/api/chat", "/api/chat"),
        ("/v1/v1/api/tags", "/api/tags"),
        ("/v1/tei/x/info", "/tei/x/info"),
        ("/embeddings", "/v1/embeddings"),
        ("/retrieval", "/dify/retrieval"),
        ("/v1/retrieval", "/dify/retrieval"),
        ("/dify//retrieval", "/dify/retrieval"),
        ("/", "/"),
        ("//", "/"),
        ("/v1", "/"),
        ("/v1/", "/"),
        ("/healthz", "/healthz"),
        ("/v1x/models", "/v1x/models"),
        ("/nowhere", "/nowhere"),
    ],
)
def test_a_path_is_led_back_to_the_one_that_is_served(asked: str, served: str) -> None:
    assert canonical(asked, SEGMENTS) == served
    assert canonical(served, SEGMENTS) == served, "a served path stays what it is"
