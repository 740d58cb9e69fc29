"""Reranking by a server over HTTP: `POST …/rerank` in the shape that Jina, Cohere, vLLM, TEI's router and Xinference
share. Sources: jina.ai/reranker, docs.cohere.com/reference/rerank, docs.vllm.ai (supported models, rerank API).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from connectors.refusals import refusal
from connectors.upstream import Upstream
from pipelines.errors import BadRequest, ModelUnavailable

#: seconds: Jina's client and Dify's give up after 5
TIMEOUT = 4.0


class ServedReranker:
    """Scores of a reranking server, brought to 0..1."""

    def __init__(self, url: str, model: str, api_key: str = "", headers: Mapping[str, str] | None = None) -> None:
        """`url` is the base URL, to which `/rerank` is added. Raises BadRequest without it or without a model."""
        if not url or not model:
            raise BadRequest("a reranking server needs DEEPWELL_RERANK__URL and DEEPWELL_RERANK__MODEL")
        base = url.rstrip("/").removesuffix("/rerank")
        self.model = model
        self._upstream = Upstream(base, api_key=api_key, headers=headers, timeout=TIMEOUT)

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score for each text. Raises ModelUnavailable, TooManyRequests, BadRequest."""
        if not texts:
            return []
        body = {"model": self.model, "query": question, "documents": list(texts), "top_n": len(texts)}
        async with await self._upstream.request("POST", "/rerank", orjson.dumps(body)) as answer:
            if answer.status // 100 != 2:
                raise refusal(
                    answer.status, answer.headers, await answer.body(), url=self._upstream.url, model=self.model,
                    section="RERANK",
                )  # fmt: skip
            return self._scores(await answer.json(), len(texts))

    def _scores(self, body: Any, count: int) -> list[float]:
        try:
            results = body["results"] if isinstance(body, dict) else body
            found = {int(each["index"]): float(each.get("relevance_score", each.get("score"))) for each in results}
            scores = [found[i] for i in range(count)]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(
                f"the reranking server at {self._upstream.url} answered in a form that is no ranking ({error!r})"
            ) from error
        return probabilities(scores)


def probabilities(scores: Sequence[float]) -> list[float]:
    """Scores in 0..1: as they are if they all are, else by the logistic function (raw scores of a cross-encoder)."""
    if all(0 <= score <= 1 for score in scores):
        return list(scores)
    return [1 / (1 + math.exp(-max(-60.0, min(60.0, score)))) for score in scores]
