"""Logging, configured once. Document text and questions are not logged."""

import json
import logging
import sys
import time

from services.settings import LogSettings

#: our own three roots; libraries below stay at warning
ROOTS = ("services", "connectors", "pipelines")


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
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(settings: LogSettings) -> None:
    """Send logs to standard error in the form and from the level that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.format == "json" else plain)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for root in (*ROOTS, "uvicorn.error"):
        logging.getLogger(root).setLevel(settings.level.upper())
