"""Each group has a place of its own in a set: imports at the same time once gave several the same."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(sa.text("""
        UPDATE members SET position = counted.place FROM (
            SELECT set_seq, group_id, row_number() OVER (PARTITION BY set_seq ORDER BY position, group_id) - 1 AS place
            FROM members) AS counted
        WHERE members.set_seq = counted.set_seq AND members.group_id = counted.group_id
          AND members.position <> counted.place"""))
    op.drop_index("ix_members_set_seq_position", "members")
    op.create_index("ix_members_set_seq_position", "members", ["set_seq", "position"], unique=True)
