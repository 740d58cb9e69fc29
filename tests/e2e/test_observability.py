"""Metrics, traces, log lines and request ids of a real platform, with a receiver of traces and a recording engine."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import Running, start, stop
from tests.e2e.upstream import MODEL, Upstream

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "deepwell.json"
QUESTION = "How many days of leave does the marzipan guild have?"


@dataclass
class Receiver:
    """An OTLP/HTTP receiver: keeps every span, by the name of its service."""

    spans: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {a.key: a.value.string_value for a in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        spans.extend((names["service.name"], span) for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def trace(self, root: Callable[[str, Any], bool]) -> tuple[Any, list[Any]]:
        """The root span for which this holds, and the spans of its trace; waited for."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            found = [(service, span) for service, span in self.spans if root(service, span)]
            if found:
                span = found[0][1]
                return span, [s for _, s in self.spans if s.trace_id == span.trace_id and s.span_id != span.span_id]
            time.sleep(0.1)
        raise AssertionError(f"no such trace among {[(service, span.name) for service, span in self.spans]}")


@dataclass
class Watched:
    running: Running
    upstream: Upstream
    receiver: Receiver
    ports: tuple[int, int]

    def metrics(self, worker: bool = False) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[worker]}/metrics", timeout=30).raise_for_status().text

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.running.key}", **headers}
        return httpx.post(self.running.url + path, json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    upstream, receiver = Upstream(), Receiver()
    upstream.start()
    ports = free_ports()
    environment = {
        "DEEPWELL_CHAT__SERVER": "openai",
        "DEEPWELL_CHAT__URL": upstream.url,
        "DEEPWELL_CHAT__MODEL": MODEL,
        "DEEPWELL_LOG__FORMAT": "json",
        "DEEPWELL_METRICS__PORT": str(ports[0]),
        "DEEPWELL_METRICS__WORKER_PORT": str(ports[1]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    running = start(folder / "data", env=environment)
    try:
        (folder / "guild.md").write_text("# Leave\n\nThe marzipan guild has twenty-five days of annual leave.\n")
        running.cli("add", str(folder / "guild.md"), "--kb", "guild")
        yield Watched(running, upstream, receiver, ports)
    finally:
        stop(running)
        upstream.stop()
        receiver.server.shutdown()


def free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(two.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "streamed"), [("/v1/chat/completions", True), ("/v1/chat/completions", False), ("/v1/responses", True)]
)
def test_a_request_id_goes_from_client_to_engine_and_back(watched: Watched, path: str, streamed: bool) -> None:
    chosen = f"ticket-{len(watched.upstream.headers)}"
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
    body = {"model": f"{MODEL}-guild", "stream": streamed, **(ask if "chat" in path else {"input": QUESTION})}
    answer = watched.post(path, body, **{"X-Request-Id": chosen})
    assert answer.status_code == 200 and "days" in answer.text
    assert answer.headers["x-request-id"] == chosen
    sent = watched.upstream.headers[-1]
    assert sent["x-request-id"] == chosen
    root, _ = watched.receiver.trace(lambda _, span: attribute(span, "deepwell.request_id") == chosen)
    assert sent["traceparent"] == f"00-{root.trace_id.hex()}-{root.span_id.hex()}-{sent['traceparent'][-2:]}"
    lines = [json.loads(line) for line in log_lines(watched, "service") if chosen in line]
    (line,) = [line for line in lines if line["logger"] == "services.watching"]
    assert (line["request_id"], line["outcome"], line["status"]) == (chosen, "answered", 200)
    assert line["trace_id"] == root.trace_id.hex()


def test_a_refused_request_has_an_id_too(watched: Watched) -> None:
    for path in ("/v1/chat/completions", "/v1/search", "/nowhere"):
        answer = httpx.post(watched.running.url + path, json={}, headers={"X-Request-Id": "no\nheader"[:2]})
        assert answer.status_code in (401, 404) and answer.headers["x-request-id"] == "no"
    made = httpx.get(f"{watched.running.url}/healthz").headers["x-request-id"]
    assert re.match(r"req-[0-9a-f]{16}$", made)


def test_every_step_of_a_question_is_traced(watched: Watched) -> None:
    body = {"model": f"{MODEL}-guild", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    watched.post("/v1/chat/completions", body, **{"X-Request-Id": "traced"})
    root, children = watched.receiver.trace(lambda _, span: attribute(span, "deepwell.request_id") == "traced")
    assert root.name == "POST /v1/chat/completions"
    names = {span.name for span in children}
    wanted = {"auth", "rewrite", "embed", "dense", "lexical", "fuse", "passages", "prompt", "engine", "first token"}
    assert wanted | {"stream", "citations"} <= names, names
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in children)
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in children)
    assert (attribute(root, "gen_ai.usage.input_tokens"), attribute(root, "gen_ai.request.model")) == (40, MODEL)
    assert "marzipan" not in str(root) + str(children)


def test_every_step_of_an_ingestion_is_traced(watched: Watched) -> None:
    root, children = watched.receiver.trace(lambda service, span: span.name == "ingest_document")
    names = {span.name for span in children}
    assert {"parse", "split", "embed", "embed batch", "write vectors", "index", "publish", "sweep"} <= names, names
    assert attribute(root, "deepwell.outcome") == "succeeded"
    _, uploading = watched.receiver.trace(lambda _, span: span.name.startswith("PUT") or "documents" in span.name)
    assert "receive" in {span.name for span in uploading}


def test_no_text_of_documents_and_questions_is_in_the_logs(watched: Watched) -> None:
    watched.post("/v1/ask", {"question": QUESTION, "knowledge_bases": ["guild"]})
    for name in ("service", "worker"):
        lines = log_lines(watched, name)
        assert lines and not [line for line in lines if "marzipan" in line]
        assert all(json.loads(line)["level"] for line in lines)


def test_a_failed_question_is_counted_as_one(watched: Watched) -> None:
    before = watched.metrics()
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "REFUSE"}]}
    assert watched.post("/v1/chat/completions", body).status_code == 503
    after = watched.metrics()
    name = f'deepwell_questions_total{{model="{MODEL}",outcome="failed"}}'
    assert value(after, name) == value(before, name) + 1
    assert 'deepwell_question_errors_total{code="model_unavailable"}' in after


def test_time_to_first_token_is_measured_where_bytes_are_relayed(watched: Watched) -> None:
    name = f'deepwell_first_token_seconds_sum{{model="{MODEL}"}}'
    before = value(watched.metrics(), name)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "SLOW"}]}
    assert watched.post("/v1/chat/completions", body).status_code == 200
    after = watched.metrics()
    assert value(after, name) >= before + 1.9
    assert value(after, f'deepwell_tokens_total{{kind="prompt",model="{MODEL}"}}') >= 40


def test_every_metric_of_the_dashboard_is_there(watched: Watched) -> None:
    text = watched.metrics() + watched.metrics(worker=True)
    served = set(re.findall(r"^(deepwell_\w+?)(?:\{| )", text, re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"deepwell_\w+", query)}
    assert len(named) >= 15
    assert named <= served, named - served
    help_lines = set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    counted = {name for name in help_lines if name.startswith("deepwell_")}
    missing = {name for name in counted if not any(each.startswith(name) for each in named)}
    assert not missing, f"measured, and on no panel: {missing}"


def test_labels_have_few_values(watched: Watched) -> None:
    for number in range(5):
        httpx.get(f"{watched.running.url}/nowhere/{number}")
        httpx.get(f"{watched.running.url}/v1/documents/doc-{number}")
    routes = set(re.findall(r'deepwell_requests_total\{route="([^"]*)"', watched.metrics()))
    assert "other" in routes and not [route for route in routes if re.search(r"\d/?$", route.removeprefix("/v1"))]


def test_what_is_true_now_is_told(watched: Watched) -> None:
    text = watched.metrics()
    assert value(text, 'deepwell_documents{state="succeeded"}') == 1
    assert value(text, 'deepwell_queue_jobs{kind="ingest"}') == 0
    assert value(text, "deepwell_index_passages") == 1 and value(text, "deepwell_knowledge_bases") == 1
    assert value(text, 'deepwell_data_bytes{kind="vectors"}') > 0
    for part in ("model server", "vector index", "full-text index", "state", "worker"):
        assert value(text, f'deepwell_part_up{{part="{part}"}}') == 1
    assert value(watched.metrics(worker=True), "deepwell_embedded_passages_total") == 1


def test_the_services_own_path_asks_for_an_admin(watched: Watched) -> None:
    url = f"{watched.running.url}/metrics"
    assert httpx.get(url).status_code == 401
    reader = watched.post("/v1/keys", {"name": "reader", "scopes": ["chat"]}).json()["key"]
    assert httpx.get(url, headers={"Authorization": f"Bearer {reader}"}).status_code == 403
    answer = httpx.get(url, headers={"Authorization": f"Bearer {watched.running.key}"})
    assert answer.status_code == 200 and "deepwell_part_up" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def attribute(span: Any, name: str) -> Any:
    for each in span.attributes:
        if each.key == name:
            return each.value.string_value or each.value.int_value
    return None


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def log_lines(watched: Watched, name: str) -> list[str]:
    text = (watched.running.data_dir / "logs" / f"{name}.log").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("{")]
