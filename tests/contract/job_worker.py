"""A worker process over the parts of job_parts: `python -m tests.contract.job_worker '{"delay": 0.1, …}'`.

`kill` names a step, and whether the process dies "before" or "after" its work (then before its checkpoint), once.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import services.sync
import services.worker
import services.workflows
from pipelines.errors import BadRequest
from pipelines.rag import DenseLeg
from services.embedders import Embedders, Spec
from services.settings import load_settings
from tests.contract.job_parts import TextParser, parts


def die(name: str, when: str) -> None:
    """Die if this is the moment, once."""
    if Mortal.kill == (name, when) and not Mortal.marker.exists():
        Mortal.marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Mortal(services.workflows.Workflows):
    """Workflows that die by their own hand at a step, once for each data directory."""

    kill: tuple[str, str] = ("", "")
    marker = Path()

    async def _step(self, name: str, run: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def mortal(*values: Any) -> Any:
            die(name, "before")
            result = await run(*values)
            die(name, "after")
            return result

        return await super()._step(name, mortal, *arguments)


class MortalSyncs(services.sync.Syncs):
    """The same for syncs."""

    async def _step(self, name: str, run: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        async def mortal(*values: Any) -> Any:
            die(name, "before")
            result = await run(*values)
            die(name, "after")
            return result

        return await super()._step(name, mortal, *arguments, **options)


async def main(options: dict[str, Any]) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = load_settings()
    Mortal.kill, Mortal.marker = tuple(options.get("kill", ("", ""))), settings.data_dir / "killed"
    services.worker.Workflows = Mortal  # type: ignore[misc]
    services.worker.Syncs = MortalSyncs  # type: ignore[misc]
    services.workflows.MAX_ATTEMPTS = options.get("max_attempts", services.workflows.MAX_ATTEMPTS)
    services.workflows.SUSPECT_ATTEMPTS = options.get("suspect_attempts", services.workflows.SUSPECT_ATTEMPTS)
    made = parts(settings.data_dir, options.get("delay", 0.0), options.get("model", "hash"))
    leg = DenseLeg(embeddings=made.embeddings, index=made.index)

    async def make(spec: Spec) -> DenseLeg:
        raise BadRequest(f"no other model here: {spec}")

    parser = TextParser(options.get("parse_delay", 0.0))
    async with services.worker.working(settings, made, Embedders(leg, {}, make), parser) as workflows:
        workflows.retry_seconds = 0.05
        (settings.data_dir / "ready").touch()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
