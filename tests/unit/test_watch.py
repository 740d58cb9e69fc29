"""Steps, metrics, traces and log lines, from the record of one request or job."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connectors.pump import Pump
from pipelines import watch as watching
from pipelines.errors import BadRequest, Conflict, ModelUnavailable
from pipelines.types import Finish, Usage
from pipelines.watch import MOST_STEPS, Watch, current, step
from services.metrics import Metrics
from services.metrics_port import listening, metrics_port
from services.sections import TracingSettings
from services.settings import load_settings
from services.telemetry import JsonLines, Lines
from services.tracing import Tracing, of_question, parent_of
from services.watched_jobs import WatchedJobs
from services.watching import Watching, watch_of

ROOT = Path(__file__).parents[2]
ENDPOINT = TracingSettings(endpoint="http://127.0.0.1:4318")


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch("req-1")
    token = watching.begin(made)
    yield made
    watching.end(token)


def test_steps_are_noted_with_their_errors(watch: Watch) -> None:
    with step("embed"):
        time.sleep(0.002)
    with pytest.raises(ModelUnavailable), step("engine"):
        raise ModelUnavailable("away")
    assert [(s.name, s.error) for s in watch.steps] == [("embed", ""), ("engine", "ModelUnavailable")]
    assert watch.steps[0].ended - watch.steps[0].began >= 0.002


def test_nothing_is_noted_where_nobody_watches() -> None:
    assert current() is None
    with step("embed"):
        pass


def test_a_long_job_does_not_fill_the_memory(watch: Watch) -> None:
    for _ in range(MOST_STEPS + 10):
        watch.note("embed batch", 0, 1)
    assert len(watch.steps) == MOST_STEPS


async def test_records_of_requests_at_the_same_time_are_apart() -> None:
    async def request(name: str) -> Watch:
        made = Watch(name)
        token = watching.begin(made)
        with step(name):
            await asyncio.sleep(0.001)
        watching.end(token)
        return made

    for name, made in zip("abc", await asyncio.gather(*map(request, "abc")), strict=True):
        assert [s.name for s in made.steps] == [name]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1", True), ("a/b:c+d=@1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)],
)
def test_a_clients_request_id_is_taken_if_it_can_stand_in_a_header(sent: str, kept: bool) -> None:
    made = watch_of({"headers": [(b"x-request-id", sent.encode("latin-1"))]})
    assert (made.id == sent) is kept
    assert kept or re.match(r"req-[0-9a-f]{16}$", made.id)


def test_only_a_real_traceparent_is_passed_on() -> None:
    real = f"00-{'a' * 32}-{'b' * 16}-01"
    assert parent_of(real) == real
    assert parent_of(real + "\r\nx: y") == parent_of("") == ""


def answered(watch: Watch) -> Watch:
    watch.model, watch.status = "deepseek-r1-7b", 200
    usage = Usage(prompt=40, completion=9, reasoning=6)
    watch.note_answer(Finish(usage=usage, timings={"first_token": 0.2, "total": 0.5}))
    return watch


def test_metrics_of_a_question(watch: Watch) -> None:
    with step("dense"):
        pass
    metrics = Metrics()
    metrics.note_request(answered(watch), "/v1/ask")
    text = metrics.text().decode()
    for line in (
        'deepwell_requests_total{route="/v1/ask",status="200"} 1.0',
        'deepwell_questions_total{model="deepseek-r1-7b",outcome="answered"} 1.0',
        'deepwell_tokens_total{kind="prompt",model="deepseek-r1-7b"} 40.0',
        'deepwell_tokens_total{kind="thinking",model="deepseek-r1-7b"} 6.0',
        'deepwell_tokens_total{kind="answer",model="deepseek-r1-7b"} 3.0',
        'deepwell_first_token_seconds_sum{model="deepseek-r1-7b"} 0.2',
        'deepwell_answer_seconds_count{model="deepseek-r1-7b"} 1.0',
        'deepwell_retrieval_seconds_count{leg="dense"} 1.0',
    ):
        assert line in text, line


def test_a_request_that_is_no_question_is_only_counted(watch: Watch) -> None:
    metrics = Metrics()
    watch.status = 401
    metrics.note_request(watch, "/v1/search")
    text = metrics.text().decode()
    assert 'deepwell_requests_total{route="/v1/search",status="401"} 1.0' in text
    assert "deepwell_questions_total{" not in text


def test_a_trace_has_the_steps_below_the_clients_span(watch: Watch) -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing("deepwell", ENDPOINT, memory)
    watch.traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    span = tracing.begin(watch, "POST /v1/ask")
    assert watch.traceparent.startswith(f"00-{'a' * 32}-") and "b" * 16 not in watch.traceparent
    with step("embed"):
        time.sleep(0.001)
    tracing.end(span, answered(watch), of_question(watch))
    tracing.close()
    child, root = memory.get_finished_spans()
    assert (child.name, root.name) == ("embed", "POST /v1/ask")
    assert child.parent and root.context and child.parent.span_id == root.context.span_id
    assert root.parent and root.parent.span_id == int("b" * 16, 16)
    assert child.start_time and child.end_time and child.end_time - child.start_time >= 1_000_000
    assert abs(child.start_time / 1e9 - time.time()) < 60
    assert root.attributes and root.attributes["gen_ai.usage.input_tokens"] == 40
    assert not any("question" in name or "text" in name for name in root.attributes)


def test_an_unsampled_request_has_no_spans_and_still_an_id(watch: Watch) -> None:
    memory = InMemorySpanExporter()
    tracing = Tracing("deepwell", TracingSettings(endpoint="http://x", ratio=0), memory)
    tracing.end(tracing.begin(watch, "GET /"), watch, {})
    tracing.close()
    assert memory.get_finished_spans() == () and int(watch.traceparent[-2:], 16) & 1 == 0


def test_a_wrong_endpoint_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"tracing\.endpoint.*4318"):
        Tracing("deepwell", TracingSettings(endpoint="localhost:4317"))


def test_the_standard_variable_is_taken() -> None:
    other = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert load_settings({}, other).tracing.endpoint == "http://collector:4318"
    assert load_settings({}, {**other, "DEEPWELL_TRACING__ENDPOINT": "http://own"}).tracing.endpoint == "http://own"


async def test_jobs_are_counted_while_they_run() -> None:
    jobs, half, go_on = WatchedJobs(), asyncio.Event(), asyncio.Event()

    async def run(_subject: str, _job: str) -> str:
        made = current()
        assert made is not None
        made.passages += 64
        half.set()
        await go_on.wait()
        made.passages += 36
        with step("parse"):
            return "done"

    running = asyncio.create_task(jobs.run("ingest_document", run, "doc-1", "job-1"))
    await half.wait()
    assert b"deepwell_embedded_passages_total 64.0" in await jobs.text()
    go_on.set()
    assert await running == "done"
    text = (await jobs.text()).decode()
    assert "deepwell_embedded_passages_total 100.0" in text
    assert 'deepwell_jobs_ended_total{kind="ingest_document",outcome="succeeded"} 1.0' in text
    assert 'deepwell_ingest_seconds_count{step="parse"} 1.0' in text


async def test_a_job_that_fails_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    jobs = WatchedJobs()
    memory = InMemorySpanExporter()
    jobs.tracing = Tracing("deepwell-worker", ENDPOINT, memory)

    async def run(*_: str) -> None:
        raise ModelUnavailable("away")

    with caplog.at_level(logging.INFO), pytest.raises(ModelUnavailable):
        await jobs.run("ingest_document", run, "doc-1", "job-1")
    jobs.tracing.close()
    assert 'outcome="failed"} 1.0' in (await jobs.text()).decode()
    assert "doc-1: failed model_unavailable" in caplog.text
    (span,) = memory.get_finished_spans()
    assert span.status.description == "model_unavailable"


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("services").makeRecord("services", logging.INFO, "", 0, message, (), None, extra=extra)


def test_log_lines_carry_the_request(watch: Watch) -> None:
    watch.traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    line = json.loads(JsonLines().format(record("hello", fields={"route": "/v1/ask"})))
    assert line["request_id"] == "req-1" and line["trace_id"] == "a" * 32 and line["route"] == "/v1/ask"
    assert Lines("%(message)s").format(record("hello")) == "hello [req-1]"


@pytest.mark.parametrize("asked_for", [False, True])
async def test_questions_are_in_the_log_only_if_asked_for(asked_for: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(_scope: object, _receive: object, _send: object) -> None:
        made = current()
        assert made is not None
        made.question = "Who earns what?"
        answered(made)

    served = Watching(app, Metrics(), None, asked_for)
    with caplog.at_level(logging.INFO):
        await served({"type": "http", "method": "POST", "path": "/v1/ask", "headers": []}, None, None)  # type: ignore[arg-type]
    (line,) = caplog.records
    assert ("Who earns what?" in JsonLines().format(line)) is asked_for
    assert json.loads(JsonLines().format(line))["completion"] == 9


async def test_a_taken_port_is_named(free_port: int) -> None:
    async def text() -> bytes:
        return b""

    with listening("127.0.0.1", free_port), pytest.raises(Conflict, match=f"port {free_port}"):
        async with metrics_port("127.0.0.1", free_port, text, "text/plain"):
            pass


def test_a_receiver_that_is_away_holds_nobody_up(watch: Watch, free_port: int) -> None:
    tracing = Tracing("deepwell", TracingSettings(endpoint=f"http://127.0.0.1:{free_port}"))
    tracing.end(tracing.begin(watch, "GET /"), watch, {})
    began = time.monotonic()
    tracing.close()
    assert time.monotonic() - began < 60, "a stop of the service waits for it; without a limit it would be minutes"


def test_the_stacks_scraper_asks_the_ports_that_the_stack_opens() -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    environment = stack["x-environment"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    ports = {
        name: job["dns_sd_configs"][0]["port"] for job in scraped["scrape_configs"]
        for name in job["dns_sd_configs"][0]["names"]
    }  # fmt: skip
    assert str(ports["service"]) == environment["DEEPWELL_METRICS__PORT"]
    assert str(ports["worker"]) == environment["DEEPWELL_METRICS__WORKER_PORT"]
    assert set(ports) <= set(stack["services"]), "every host is a service of the stack"
    sources = yaml.safe_load((ROOT / "deploy" / "grafana" / "datasource.yml").read_text(encoding="utf-8"))
    board = json.loads((ROOT / "deploy" / "grafana" / "deepwell.json").read_text(encoding="utf-8"))
    uids = {panel["datasource"]["uid"] for panel in board["panels"]}
    assert uids == {source["uid"] for source in sources["datasources"]}


@pytest.mark.parametrize(("sent", "kept"), [(b"6f1c-22", "6f1c-22"), (b"a b\n", ""), (b"x" * 200, "")])
def test_open_webuis_user_is_in_the_record(sent: bytes, kept: str) -> None:
    assert watch_of({"headers": [(b"x-openwebui-user-id", sent)]}).user == kept
    assert watch_of({"headers": []}).user == ""


async def test_no_chunk_after_the_first_pays_for_the_clock() -> None:
    sent: list[bytes] = []
    noted: list[int] = []

    def send(frames: bytes) -> None:
        sent.append(frames)

    pumping = Pump(None, None, send)  # type: ignore[arg-type]
    pumping.at_first(lambda: noted.append(1))
    for frames in (b"a", b"b", b"c"):
        pumping._send(frames)
    assert sent == [b"a", b"b", b"c"] and noted == [1]
    assert pumping._send is send, "afterwards the function of the client itself is called"
