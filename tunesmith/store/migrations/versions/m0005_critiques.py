"""Critiques that labelers may see beside a group's answers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "critiques",
        sa.Column("group_id", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("choice", sa.Integer, nullable=True),
        sa.Column("by", sa.String(300), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_critiques"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_critiques_group_id"))
