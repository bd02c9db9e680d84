"""Rounds, and which model each loop has adopted."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "rounds",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("loop", sa.String(48), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("steps", sa.Text, nullable=False),
        sa.Column("waits", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("updated", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rounds"),
        sa.UniqueConstraint("loop", "number", name="uq_rounds_loop_number"))
    op.create_table(
        "adoptions",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(96), nullable=False),
        sa.Column("loop", sa.String(48), nullable=False),
        sa.Column("adapter", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("why", sa.String(16), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_adoptions"),
        sa.UniqueConstraint("id", name="uq_adoptions_id"))
    op.create_index("ix_adoptions_loop_seq", "adoptions", ["loop", "seq"])
