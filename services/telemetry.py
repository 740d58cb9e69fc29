"""Logging, configured once. Text of documents is never logged, text of questions only where a setting asks for it."""

import json
import logging
import sys
import time

from pipelines.watch import current
from services.sections import LogSettings

#: our own three roots; libraries below stay at warning
ROOTS = ("services", "connectors", "pipelines")


class Lines(logging.Formatter):
    """Lines for people, with the id of the request or job they belong to."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = super().format(record)
        watch = current()
        return text if watch is None or not watch.id else f"{text} [{watch.id}]"


class JsonLines(logging.Formatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (watch := current()) is not None:
            line["request_id"] = watch.id
            line |= {"trace_id": watch.traceparent[3:35]} if watch.traceparent else {}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(settings: LogSettings) -> None:
    """Send logs to standard error in the form and from the level that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    plain = Lines("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.format == "json" else plain)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for root in (*ROOTS, "uvicorn.error"):
        logging.getLogger(root).setLevel(settings.level.upper())
