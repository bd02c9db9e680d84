"""The log of what users of served models said and did, and what was made from it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "interactions",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("conversation", sa.String(128), nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("holdout", sa.Boolean, nullable=False),
        sa.Column("asked", sa.String(16), nullable=False),
        sa.Column("said", sa.String(16), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("expires", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_interactions"),
        sa.UniqueConstraint("id", name="uq_interactions_id"))
    for column in ("user", "conversation", "asked", "said", "expires"):
        op.create_index(f"ix_interactions_{column}", "interactions", [column])
    op.create_table(
        "interaction_events",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("interaction_seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_interaction_events"),
        sa.ForeignKeyConstraint(["interaction_seq"], ["interactions.seq"],
                                name="fk_interaction_events_interaction_seq"),
        sa.UniqueConstraint("interaction_seq", "id", name="uq_interaction_events_interaction_seq_id"))
    op.create_table(
        "interaction_uses",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("interaction", sa.String(128), nullable=False),
        sa.Column("erased", sa.String(32), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("seq", name="pk_interaction_uses"),
        sa.UniqueConstraint("dataset", "interaction", name="uq_interaction_uses_dataset_interaction"))
    op.create_index("ix_interaction_uses_interaction", "interaction_uses", ["interaction"])
