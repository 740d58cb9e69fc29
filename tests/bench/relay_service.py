"""What the relay bench measures: the real service, its chat model behind the harness's upstream, a key in its store.

`DEEPWELL_DATA_DIR=… uvicorn --factory tests.bench.relay_service:create`
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI

from pipelines.errors import Conflict
from services.app import create_app
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


def create() -> FastAPI:
    """The application."""
    settings = load_settings(
        {
            "chat.server": "openai",
            "chat.url": UPSTREAM,
            "chat.model": "deepseek-r1:7b",
            "chat.meta_prompts": "false",
            "index.url": "http://127.0.0.1:9",  # plain chat asks no index
        }
    )
    with ThreadPoolExecutor(1) as thread:  # uvicorn calls this inside its loop
        thread.submit(asyncio.run, make_key(settings)).result()
    return create_app(settings)
