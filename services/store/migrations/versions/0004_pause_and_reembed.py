"""Ingestion that is paused, and knowledge bases whose vectors come from another embedding model than the one in force."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("knowledge_bases", sa.Column("paused", sa.Float(53)))
    op.add_column("knowledge_bases", sa.Column("embedder", sa.JSON))


def downgrade() -> None:
    raise NotImplementedError("restore the backup made before the upgrade")
