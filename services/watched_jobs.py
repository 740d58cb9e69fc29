"""The worker's side of observability: each run of a job has a record, which becomes metrics, a trace and a log line."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines import watch as watching
from pipelines.errors import RagError
from pipelines.watch import Watch
from services.metrics import WorkerMetrics
from services.tracing import Tracing

log = logging.getLogger(__name__)
Run = Callable[..., Awaitable[Any]]


class WatchedJobs:
    """Runs jobs and notes how they went. `tracing` is set where traces are wanted."""

    def __init__(self) -> None:
        self.metrics = WorkerMetrics()
        self.tracing: Tracing | None = None
        #: runs in progress, each with the passages of it that are counted
        self._running: dict[int, tuple[Watch, int]] = {}

    async def run(self, kind: str, run: Run, subject: str, job_id: str, *more: Any) -> Any:
        """`run(subject, job_id, *more)`: a job on a document or a knowledge base. Raises what it raises."""
        watch = Watch(job_id)
        token = watching.begin(watch)
        self._running[id(watch)] = (watch, 0)
        span = self.tracing.begin(watch, kind) if self.tracing else None
        try:
            result = await run(subject, job_id, *more)
        except RagError as error:
            watch.outcome, watch.error = "failed", error.code
            raise
        except asyncio.CancelledError:
            watch.outcome = "stopped"
            raise
        else:
            watch.outcome = "succeeded"
            return result
        finally:
            watch.outcome = watch.outcome or "failed"
            self._end(watch, kind, subject)
            if span is not None and self.tracing is not None:
                told = {"deepwell.job": job_id, "deepwell.subject": subject, "deepwell.outcome": watch.outcome}
                self.tracing.end(span, watch, told | {"error.type": watch.error})
            watching.end(token)

    def _end(self, watch: Watch, kind: str, subject: str) -> None:
        self._count(watch)
        del self._running[id(watch)]
        self.metrics.note_job(watch, kind)
        seconds = round(time.perf_counter() - watch.began, 3)
        fields = {"job": kind, "subject": subject, "outcome": watch.outcome, "error": watch.error, "seconds": seconds}
        what = f"{watch.outcome} {watch.error}".strip()
        log.info("%s %s: %s in %.1f s", kind, subject, what, seconds, extra={"fields": fields})

    def _count(self, watch: Watch) -> None:
        """Passages that were embedded since the last look: a long document is not counted at its end only."""
        self.metrics.embedded.inc(watch.passages - self._running[id(watch)][1])
        self._running[id(watch)] = (watch, watch.passages)

    async def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        for watch, _ in list(self._running.values()):
            self._count(watch)
        return await asyncio.to_thread(self.metrics.text)
