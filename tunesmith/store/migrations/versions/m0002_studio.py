"""The team, assignment of work, guidelines, the demonstration desk, endpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MEMBERS = (
    sa.Column("taken", sa.Integer, nullable=False, server_default="0"),
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("priority", sa.Float, nullable=False, server_default="0"),
    sa.Column("gold", sa.Text, nullable=False, server_default=""),
    sa.Column("open", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("contested", sa.String(16), nullable=False, server_default=""))
OVERLAP = 2
"""The default of a project when this revision was written."""


def upgrade() -> None:
    for column in MEMBERS:
        op.add_column("members", column)
    for name, columns, rows in (("open", ["set_seq", "priority", "shuffled"], "open"),
                                ("open_random", ["set_seq", "shuffled"], "open"), ("gold", ["set_seq"], "gold <> ''"),
                                ("contested", ["set_seq"], "contested = 'waiting'")):
        op.create_index(f"ix_members_{name}", "members", columns, sqlite_where=sa.text(rows),
                        postgresql_where=sa.text(rows))
    op.create_index("ix_rankings_labeler_seq", "rankings", ["labeler", "seq"])
    _count()
    append_only("rankings")
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_accounts"))
    op.create_table(
        "invitations",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("account", sa.String(64), nullable=False, server_default=""),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("expires", sa.String(32), nullable=False),
        sa.Column("used_by", sa.String(64), nullable=False, server_default=""),
        sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("digest", name="pk_invitations"))
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("expires", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_sessions"),
        sa.ForeignKeyConstraint(["account"], ["accounts.name"], name="fk_sessions_account"))
    op.create_index("ix_sessions_account", "sessions", ["account"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("expires", sa.String(32), nullable=False),
        sa.Column("revoked", sa.String(32), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["account"], ["accounts.name"], name="fk_api_keys_account"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"))
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("object", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"))
    op.create_table(
        "quarantines",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("lifted_by", sa.String(64), nullable=False, server_default=""),
        sa.Column("lifted_at", sa.String(32), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("seq", name="pk_quarantines"),
        sa.ForeignKeyConstraint(["labeler"], ["labelers.name"], name="fk_quarantines_labeler"))
    op.create_index("ix_quarantines_labeler", "quarantines", ["labeler"])
    op.create_table(
        "projects",
        sa.Column("set_seq", sa.Integer, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("set_seq", name="pk_projects"),
        sa.ForeignKeyConstraint(["set_seq"], ["sets.seq"], name="fk_projects_set_seq"))
    op.create_table(
        "guidelines",
        sa.Column("set_seq", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("set_seq", "version", name="pk_guidelines"),
        sa.ForeignKeyConstraint(["set_seq"], ["sets.seq"], name="fk_guidelines_set_seq"))
    op.create_table(
        "acknowledgements",
        sa.Column("set_seq", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("set_seq", "version", "labeler", name="pk_acknowledgements"),
        sa.ForeignKeyConstraint(["set_seq", "version"], ["guidelines.set_seq", "guidelines.version"],
                                name="fk_acknowledgements_set_seq"))
    op.create_table(
        "claims",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("set_seq", sa.Integer, nullable=False),
        sa.Column("group_id", sa.String(16), nullable=False),
        sa.Column("labeler", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("until", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_claims"),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_claims_group_id"),
        sa.ForeignKeyConstraint(["set_seq"], ["sets.seq"], name="fk_claims_set_seq"),
        sa.UniqueConstraint("token", name="uq_claims_token"))
    op.create_index("ix_claims_labeler_set_seq_state", "claims", ["labeler", "set_seq", "state"])
    op.create_index("ix_claims_live", "claims", ["set_seq", "until"], sqlite_where=sa.text("state = 'live'"),
                    postgresql_where=sa.text("state = 'live'"))
    op.create_index("ix_claims_one", "claims", ["labeler", "set_seq"], unique=True,
                    sqlite_where=sa.text("state = 'live'"), postgresql_where=sa.text("state = 'live'"))
    op.create_index("ix_claims_group_id_labeler", "claims", ["group_id", "labeler"])
    op.create_table(
        "drafts",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("desk", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_drafts"),
        sa.UniqueConstraint("id", name="uq_drafts_id"))
    op.create_index("ix_drafts_desk_state_seq", "drafts", ["desk", "state", "seq"])
    op.create_table(
        "reviews",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("draft_seq", sa.Integer, nullable=False),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_reviews"),
        sa.ForeignKeyConstraint(["draft_seq"], ["drafts.seq"], name="fk_reviews_draft_seq"),
        sa.UniqueConstraint("id", name="uq_reviews_id"))
    op.create_index("ix_reviews_draft_seq", "reviews", ["draft_seq"])
    op.create_table(
        "endpoints",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("url", sa.String(500), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("key_variable", sa.String(64), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_endpoints"))
    for table in ("audit", "reviews"):
        append_only(table)


def _count() -> None:
    """How many people have judged each group, by their newest verdict; a simulated labeler takes nobody's place."""
    members, rankings, labelers = (sa.table(n, *map(sa.column, c)) for n, c in {
        "members": ("group_id", "taken", "done", "open"), "rankings": ("seq", "group_id", "labeler", "body"),
        "labelers": ("name", "simulated")}.items())
    later = rankings.alias()
    newest = ~sa.exists().where(later.c.group_id == rankings.c.group_id, later.c.labeler == rankings.c.labeler,
                                later.c.seq > rankings.c.seq)
    people = (sa.select(sa.func.count()).select_from(rankings)
              .join(labelers, labelers.c.name == rankings.c.labeler)
              .where(rankings.c.group_id == members.c.group_id, sa.not_(labelers.c.simulated), newest,
                     ~rankings.c.body.contains('"skipped":')).scalar_subquery())
    op.execute(sa.update(members).values(taken=people, done=people))
    op.execute(sa.update(members).where(members.c.taken >= OVERLAP).values(open=sa.false()))


def append_only(table: str) -> None:
    """The database itself refuses to change or delete a row."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                       f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END")
    else:
        op.execute(f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
                   f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$")
        op.execute(f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                   f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()")

