"""Datasets, answer groups, rankings, labelers, adapters, runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_datasets"),
        sa.UniqueConstraint("name", name="uq_datasets_name"))
    op.create_table(
        "groups",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_groups"))
    op.create_table(
        "sets",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_sets"),
        sa.UniqueConstraint("name", name="uq_sets_name"))
    op.create_table(
        "members",
        sa.Column("set_seq", sa.Integer, nullable=False),
        sa.Column("group_id", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("shuffled", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("set_seq", "group_id", name="pk_members"),
        sa.ForeignKeyConstraint(["set_seq"], ["sets.seq"], name="fk_members_set_seq"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_members_group_id"))
    op.create_index("ix_members_set_seq_position", "members", ["set_seq", "position"])
    op.create_index("ix_members_set_seq_shuffled_group_id", "members", ["set_seq", "shuffled", "group_id"])
    op.create_index("ix_members_group_id", "members", ["group_id"])
    op.create_table(
        "labelers",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_labelers"))
    op.create_table(
        "rankings",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("group_id", sa.String(16), nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rankings"),
        sa.UniqueConstraint("id", name="uq_rankings_id"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_rankings_group_id"),
        sa.ForeignKeyConstraint(["labeler"], ["labelers.name"], name="fk_rankings_labeler"))
    op.create_index("ix_rankings_group_id_labeler", "rankings", ["group_id", "labeler"])
    op.create_table(
        "adapters",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_adapters"),
        sa.UniqueConstraint("name", "version", name="uq_adapters_name_version"))
    op.create_table(
        "runs",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("command", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_runs"),
        sa.UniqueConstraint("id", name="uq_runs_id"))
