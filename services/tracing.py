"""OpenTelemetry traces, made from the records of requests and jobs once they have ended (pipelines.watch).

The root span is begun at once, so that the model server's own spans hang below it (`traceparent`); the steps become
its children at the end, with the times that were noted. No text goes into a span. Needs the extra `otel`.
"""

import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.errors import BadRequest
from pipelines.watch import Watch
from services.sections import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

STOP_SECONDS = 2.0
#: https://www.w3.org/TR/trace-context/#traceparent-header
TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")


class Tracing:
    """Sends spans to an OTLP/HTTP receiver, in batches from a thread."""

    def __init__(self, service: str, settings: TracingSettings, exporter: "SpanExporter | None" = None) -> None:
        """Raises BadRequest without the extra. `exporter` takes the place of the receiver."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError:
            raise BadRequest("setting tracing.endpoint needs the extra otel: pip install 'deepwell[otel]'") from None
        if not re.match(r"https?://[^/]", settings.endpoint):
            raise BadRequest(
                f"setting tracing.endpoint: {settings.endpoint!r} is no http address; OTLP over HTTP usually listens "
                "at http://HOST:4318"
            )
        sampler = ParentBased(TraceIdRatioBased(settings.ratio))
        self._provider = TracerProvider(sampler, Resource.create({"service.name": service}), shutdown_on_exit=False)
        receiver = settings.endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=receiver)))
        self._tracer: Tracer = self._provider.get_tracer("deepwell")
        #: seconds between the epoch and the zero of `time.perf_counter`
        self._zero = time.time() - time.perf_counter()

    def begin(self, watch: Watch, name: str) -> "Span":
        """The root span of a record; `watch.traceparent` is the client's, and afterwards ours."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator as W3C

        parent = W3C().extract({"traceparent": watch.traceparent}) if watch.traceparent else None
        span = self._tracer.start_span(name, context=parent, start_time=self._ns(watch.began))
        context = span.get_span_context()
        watch.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return span

    def end(self, span: "Span", watch: Watch, attributes: Mapping[str, Any]) -> None:
        """The steps as children, then the end of the root."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        if span.is_recording():
            inside = set_span_in_context(span)
            for step in watch.steps:
                child = self._tracer.start_span(step.name, context=inside, start_time=self._ns(step.began))
                if step.error:
                    child.set_status(Status(StatusCode.ERROR, step.error))
                child.end(self._ns(step.ended))
            span.set_attributes({name: value for name, value in attributes.items() if value not in ("", None)})
            if watch.error or watch.status >= 500:
                span.set_status(Status(StatusCode.ERROR, watch.error or str(watch.status)))
        span.end()

    def _ns(self, seconds: float) -> int:
        return int((self._zero + seconds) * 1e9)

    def close(self) -> None:
        """Send what waits; blocking, STOP_SECONDS at most: a receiver that is away must not hold up a stop."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)


def parent_of(value: str) -> str:
    """A client's `traceparent` if it is one, else ""."""
    return value if TRACEPARENT.match(value) else ""


def of_question(watch: Watch) -> dict[str, Any]:
    """Attributes of a request's span, in OpenTelemetry's words where it has some (semantic conventions for GenAI)."""
    used = watch.usage
    return {
        "http.response.status_code": watch.status,
        "deepwell.request_id": watch.id,
        "deepwell.caller": watch.caller,
        "deepwell.outcome": watch.outcome,
        "error.type": watch.error,
        "gen_ai.request.model": watch.model,
        "gen_ai.usage.input_tokens": used.prompt if used else None,
        "gen_ai.usage.output_tokens": used.completion if used else None,
        "deepwell.thinking_tokens": used.reasoning if used else None,
    }
