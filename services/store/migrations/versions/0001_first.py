"""The first schema.

Written out, not taken from services.store.tables: a migration must not change when the tables do.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def passages(table: str, *more: sa.Column) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("document_id", sa.String(32), nullable=False),
        sa.Column("knowledge_base_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("page", sa.Integer),
        sa.Column("page_end", sa.Integer),
        sa.Column("heading", sa.Text, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        *more,
    )
    op.create_index(f"{table}_in_order", table, ["document_id", "position"])
    op.create_index(f"ix_{table}_knowledge_base_id", table, ["knowledge_base_id"])


def upgrade() -> None:
    op.create_table(
        "knowledge_bases",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("embedding", sa.JSON),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("job_id", sa.String(100), nullable=False),
        sa.Column("deleted", sa.Float(53)),
    )
    op.create_table(
        "documents",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("knowledge_base_id", sa.String(32), sa.ForeignKey("knowledge_bases.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("media_type", sa.String(200), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("indexed_sha256", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("pages_done", sa.Integer, nullable=False),
        sa.Column("pages_total", sa.Integer, nullable=False),
        sa.Column("eta", sa.Float(53)),
        sa.Column("job_id", sa.String(100), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("updated", sa.Float(53), nullable=False),
        sa.Column("deleted", sa.Float(53)),
        sa.UniqueConstraint("knowledge_base_id", "name"),
    )
    op.create_index("documents_by_state", "documents", ["state"])
    op.create_index("documents_by_sha256", "documents", ["sha256"])
    passages("chunks")
    passages(
        "staged_chunks",
        sa.Column("embedded", sa.Boolean, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
    )
    op.create_table(
        "stale_chunks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("document_id", sa.String(32), nullable=False),
        sa.Column("knowledge_base_id", sa.String(32), nullable=False),
    )
    op.create_index("ix_stale_chunks_document_id", "stale_chunks", ["document_id"])
    op.create_index("ix_stale_chunks_knowledge_base_id", "stale_chunks", ["knowledge_base_id"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("knowledge_bases", sa.JSON),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("revoked", sa.Float(53)),
        sa.Column("last_used", sa.Float(53)),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup made before the upgrade")
