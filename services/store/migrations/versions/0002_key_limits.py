"""Limits of a key."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("keys", sa.Column("requests_per_minute", sa.Integer))
    op.add_column("keys", sa.Column("concurrent_answers", sa.Integer))


def downgrade() -> None:
    raise NotImplementedError("restore the backup made before the upgrade")
