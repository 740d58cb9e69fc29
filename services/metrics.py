"""Prometheus metrics of one process, made from the records of requests and jobs that have ended (pipelines.watch).

Nothing is counted while tokens flow. What the database knows (documents by state, the size of the index) is read when
somebody asks for it: services/gauges.py.
"""

from functools import cache
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pipelines.watch import Watch

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of when each counter began, for each counter: nobody draws those

#: seconds: a search takes milliseconds, a thinking model's answer minutes
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
#: steps of a question that are retrieval; the rest of it is the model's
LEGS = frozenset({"embed", "dense", "lexical", "fuse", "rerank", "passages"})
#: steps of an ingestion
STAGES = frozenset({"parse", "split", "embed", "index", "publish", "sweep"})


class Metrics:
    """What one process counts, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("deepwell_requests", "HTTP requests by route and status.", ["route", "status"], **made)
        self.questions = Counter(
            "deepwell_questions",
            "Questions by model and outcome: answered, abstained, cut, failed, left, or client (its own request).",
            ["model", "outcome"],
            **made,
        )
        self.errors = Counter(
            "deepwell_question_errors", "Questions that failed, by the error's code.", ["code"], **made
        )
        self.first_token = Histogram(
            "deepwell_first_token_seconds",
            "Seconds from a question to its first token.",
            ["model"],
            buckets=LONG,
            **made,
        )
        self.answer = Histogram(
            "deepwell_answer_seconds", "Seconds from a question to its answer's end.", ["model"], buckets=LONG, **made
        )
        self.retrieval = Histogram(
            "deepwell_retrieval_seconds",
            "Seconds of retrieval by leg: embed, dense, lexical, fuse, rerank, passages.",
            ["leg"],
            buckets=SHORT,
            **made,
        )
        self.tokens = Counter(
            "deepwell_tokens", "Tokens by model and kind: prompt, thinking, answer.", ["model", "kind"], **made
        )
        self.running = Gauge("deepwell_requests_running", "HTTP requests being answered.", **made)
        self._of_model = cache(self._children_of_model)
        self._leg = cache(self.retrieval.labels)
        self._request = cache(self.requests.labels)
        self._question = cache(self.questions.labels)

    def note_request(self, watch: Watch, route: str) -> None:
        """A request that has ended, and the question in it if there was one."""
        self._request(route, str(watch.status)).inc()
        for step in watch.steps:
            if step.name in LEGS:
                self._leg(step.name).observe(step.ended - step.began)
        if not watch.outcome:
            return
        self._question(watch.model, watch.outcome).inc()
        if watch.error:
            self.errors.labels(watch.error).inc()
        used = watch.usage
        if used is None:
            return
        first, whole, prompt, thinking, answer = self._of_model(watch.model)
        first.observe(watch.first_token)
        whole.observe(watch.seconds)
        prompt.inc(used.prompt)
        thinking.inc(used.reasoning)
        answer.inc(max(0, used.completion - used.reasoning))

    def _children_of_model(self, model: str) -> tuple[Any, ...]:
        kinds = (self.tokens.labels(model, kind) for kind in ("prompt", "thinking", "answer"))
        return (self.first_token.labels(model), self.answer.labels(model), *kinds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class WorkerMetrics:
    """What the worker counts."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.jobs = Counter("deepwell_jobs_ended", "Jobs that ended, by kind and outcome.", ["kind", "outcome"], **made)
        self.stages = Histogram(
            "deepwell_ingest_seconds",
            "Seconds of an ingestion by step: parse, split, embed, index, publish, sweep.",
            ["step"],
            buckets=LONG,
            **made,
        )
        self.embedded = Counter("deepwell_embedded_passages", "Passages embedded and written.", **made)

    def note_job(self, watch: Watch, kind: str) -> None:
        """A job's run that has ended."""
        self.jobs.labels(kind, watch.outcome).inc()
        for step in watch.steps:
            if step.name in STAGES:
                self.stages.labels(step.name).observe(step.ended - step.began)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
