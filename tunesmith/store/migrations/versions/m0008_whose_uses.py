"""Whose an interaction was stays noted with its use, for a user who asks when retention has deleted the rest."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("interaction_uses", sa.Column("user", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_interaction_uses_user", "interaction_uses", ["user"])
    op.execute(sa.text("""
        UPDATE interaction_uses SET "user" = COALESCE((
            SELECT i."user" FROM interactions AS i WHERE i.id = interaction_uses.interaction), '')
        WHERE erased = ''"""))
