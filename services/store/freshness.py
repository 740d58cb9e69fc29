"""Whether anything changed in a knowledge base, for caches: they must not show what is gone or hide what is new."""

from collections.abc import Collection

import sqlalchemy as sa

from services.store.database import Database
from services.store.tables import documents


async def version_of(database: Database, knowledge_base_ids: Collection[str]) -> tuple[int, float]:
    """Documents and the time of their last change; another value means that something changed."""
    query = sa.select(sa.func.count(), sa.func.max(documents.c.updated))
    row = await database.row(
        query.where(documents.c.knowledge_base_id.in_(knowledge_base_ids), documents.c.deleted.is_(None))
    )
    return (int(row[0]), float(row[1] or 0)) if row else (0, 0.0)
