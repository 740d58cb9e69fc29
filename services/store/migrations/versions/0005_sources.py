"""Sources, and the documents that come from them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("knowledge_base_id", sa.String(32), sa.ForeignKey("knowledge_bases.id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("schedule", sa.String(100), nullable=False),
        sa.Column("watch", sa.Boolean, nullable=False),
        sa.Column("watch_error", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("error_code", sa.String(64), nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("problems", sa.JSON, nullable=False),
        sa.Column("job_id", sa.String(100), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("allow_empty", sa.Boolean, nullable=False),
        sa.Column("due", sa.Float(53)),
        sa.Column("began", sa.Float(53)),
        sa.Column("ended", sa.Float(53)),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("updated", sa.Float(53), nullable=False),
        sa.Column("deleted", sa.Float(53)),
    )
    op.create_index("ix_sources_knowledge_base_id", "sources", ["knowledge_base_id"])
    op.create_table(
        "left_out",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("source_id", sa.String(32), nullable=False),
        sa.Column("external_id", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("ix_left_out_source_id", "left_out", ["source_id"])
    op.add_column("documents", sa.Column("source_id", sa.String(32)))
    op.add_column("documents", sa.Column("external_id", sa.Text))
    op.add_column("documents", sa.Column("version", sa.Text))
    op.create_index("ix_documents_source_id", "documents", ["source_id"])


def downgrade() -> None:
    raise NotImplementedError("restore the backup made before the upgrade")
