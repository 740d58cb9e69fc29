"""How a key's client wants its answers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("keys", sa.Column("options", sa.JSON))


def downgrade() -> None:
    raise NotImplementedError("restore the backup made before the upgrade")
