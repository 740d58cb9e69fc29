"""What the relay bench measures: the real service, its chat model behind the harness's upstream, a key in its store.

`DEEPWELL_DATA_DIR=… python -m tests.bench.relay_service PORT`
"""

import asyncio
import sys

from pipelines.errors import Conflict
from services.app import run
from services.settings import Settings, load_settings
from services.store.store import Store

UPSTREAM = "http://127.0.0.1:9001/v1"
KEY = "test"


async def make_key(settings: Settings) -> None:
    """The key that the harness sends."""
    async with await Store.open(settings.store_url()) as store:
        try:
            await store.keys.create("bench", {"chat"}, secret=KEY)
        except Conflict:
            return


def main(port: str) -> None:
    """Serve as `deepwell up` does."""
    settings = load_settings(
        {
            "server.port": port,
            "log.level": "warning",  # no line for each request, as none of the peers writes one
            "chat.server": "openai",
            "chat.url": UPSTREAM,
            "chat.model": "deepseek-r1:7b",
            "chat.meta_prompts": "false",
            "index.url": "http://127.0.0.1:9",  # plain chat asks no index
        }
    )
    asyncio.run(make_key(settings))
    run(settings)


if __name__ == "__main__":
    main(sys.argv[1])
