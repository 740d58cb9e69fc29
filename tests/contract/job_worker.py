"""A worker process over the parts of job_parts: `python -m tests.contract.job_worker '{"delay": 0.1, …}'`."""

import asyncio
import json
import signal
import sys

from services.settings import load_settings
from services.worker import working
from tests.contract.job_parts import TextParser, parts


async def main(options: dict[str, float]) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = load_settings()
    made = parts(settings.data_dir, options.get("delay", 0.0))
    async with working(settings, made, TextParser(options.get("parse_delay", 0.0))) as workflows:
        workflows.retry_seconds = 0.05
        (settings.data_dir / "ready").touch()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
