"""`deepwell move`: sources go along with the documents they brought, with their secrets."""

import asyncio
import time
from pathlib import Path

import sqlalchemy as sa

from services import credentials
from services.store.store import Store
from services.store.tables import left_out, sources


async def move_sources(old: Store, new: Store, knowledge_base_id: str, places: tuple[Path, Path]) -> int:
    """Copy the sources of a knowledge base that the new place does not have. Gives how many.

    They are looked at as soon as a worker runs there, since much may have changed meanwhile. `places` are the data
    directories, the old one first.
    """
    wanted = sa.select(sources).where(sources.c.knowledge_base_id == knowledge_base_id, sources.c.deleted.is_(None))
    there = await new.database.rows(sa.select(sources.c.id, sources.c.name))
    known, names = {row.id for row in there}, {row.name for row in there}
    moved = 0
    for row in await old.database.rows(wanted):
        if row.id in known:
            continue
        idle = {"state": "", "step": "", "job_id": "", "due": None if row.kind == "push" else time.time()}
        name = f"{row.name[:160]} {row.id}" if row.name in names else row.name
        notes = await old.database.rows(sa.select(left_out).where(left_out.c.source_id == row.id))
        secrets = await asyncio.to_thread(credentials.read, places[0], row.id)
        await asyncio.to_thread(credentials.keep, places[1], row.id, secrets)
        async with new.database.write() as connection:
            await connection.execute(sources.insert(), dict(row._mapping) | idle | {"name": name})
            if notes:
                await connection.execute(left_out.insert(), [dict(note._mapping) for note in notes])
        moved += 1
    return moved
