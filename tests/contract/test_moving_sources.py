"""Sources move along with their documents and secrets."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from services import credentials
from services.moving_sources import move_sources
from services.store.sources import LeftOut
from services.store.store import Store
from services.store.tables import knowledge_bases


async def make(store: Store, base: str, kind: str, name: str) -> str:
    made = await store.sources.create(
        knowledge_base_id=base, kind=kind, name=name, location="/srv/x", options={"prefix": "p/"}, schedule="1h",
        watch=kind == "folder",
    )  # fmt: skip
    return made.id


async def test_sources_come_with_their_secrets_and_are_looked_at(tmp_path: Path) -> None:
    async with (
        await Store.open(f"sqlite:///{tmp_path / 'old.db'}") as old,
        await Store.open(f"sqlite:///{tmp_path / 'new.db'}") as new,
    ):
        base = await old.knowledge_bases.create("team")
        row: Any = await old.database.row(sa.select(knowledge_bases).where(knowledge_bases.c.id == base.id))
        async with new.database.write() as connection:
            await connection.execute(knowledge_bases.insert(), dict(row._mapping))
        other = await new.knowledge_bases.create("other")
        await make(new, other.id, "push", "handbook")
        folder, pushed = await make(old, base.id, "folder", "handbook"), await make(old, base.id, "push", "crm")
        await old.sources.leave_out(folder, "a.bin", LeftOut(version="1", code="unsupported_document", error="no"))
        credentials.keep(tmp_path / "old", folder, {"password": "s3cret"})
        places = (tmp_path / "old", tmp_path / "new")
        assert await move_sources(old, new, base.id, places) == 2
        assert await move_sources(old, new, base.id, places) == 0, "once"
        moved = await new.sources.get(folder)
        assert (moved.name, moved.state, moved.watch) == (f"handbook {folder}", "", True)
        assert moved.due is not None and (await new.sources.get(pushed)).due is None
        assert set(await new.sources.left_out(folder)) == {"a.bin"}
        assert credentials.read(tmp_path / "new", folder) == {"password": "s3cret"}
        kept = credentials.folder_of(tmp_path / "new", folder) / "credentials.json"
        assert kept.stat().st_mode & 0o077 == 0, "for the owner only"
