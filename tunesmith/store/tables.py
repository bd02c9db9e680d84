"""The tables of a workspace's database, the same on SQLite and PostgreSQL.

What people judged is append-only: nothing of it is ever deleted, a change is a new row. What users of a served model
said is theirs: it goes when its time is over, or when they ask. Migrations are in migrations/.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={
    "pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"})

# Times are ISO 8601 UTC texts with microseconds: they sort, and mean the same in every database.
# JSON is escaped ASCII in a text column: every Unicode string survives, U+0000 included.

datasets = sa.Table(
    "datasets", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

groups = sa.Table(
    "groups", metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("answers", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False))

sets = sa.Table(
    "sets", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.String(32), nullable=False))

members = sa.Table(
    "members", metadata,
    sa.Column("set_seq", sa.Integer, sa.ForeignKey("sets.seq"), primary_key=True),
    sa.Column("group_id", sa.String(16), sa.ForeignKey("groups.id"), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),  # 0, 1, ... without a gap: the last one tells how many there are
    sa.Column("shuffled", sa.Integer, nullable=False),  # a fixed pseudo-random number: the order of ranking
    sa.Column("taken", sa.Integer, nullable=False, server_default="0"),  # people's verdicts and live claims
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),  # people's verdicts, each person once
    sa.Column("priority", sa.Float, nullable=False, server_default="0"),  # higher is asked earlier
    sa.Column("gold", sa.Text, nullable=False, server_default=""),  # the known right tiers of a test question
    sa.Column("open", sa.Boolean, nullable=False, server_default=sa.true()),  # whether anybody more may claim it
    sa.Column("contested", sa.String(16), nullable=False, server_default=""),  # waiting for a reviewer, settled by one
    sa.Index(None, "set_seq", "position", unique=True),
    sa.Index("ix_members_open", "set_seq", "priority", "shuffled", sqlite_where=sa.text("open"),
             postgresql_where=sa.text("open")),
    sa.Index("ix_members_open_random", "set_seq", "shuffled", sqlite_where=sa.text("open"),
             postgresql_where=sa.text("open")),
    sa.Index("ix_members_gold", "set_seq", sqlite_where=sa.text("gold <> ''"), postgresql_where=sa.text("gold <> ''")),
    sa.Index("ix_members_contested", "set_seq", sqlite_where=sa.text("contested = 'waiting'"),
             postgresql_where=sa.text("contested = 'waiting'")),
    sa.Index(None, "set_seq", "shuffled", "group_id"),
    sa.Index(None, "group_id"))

labelers = sa.Table(
    "labelers", metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("role", sa.String(32), nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

rankings = sa.Table(
    "rankings", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("group_id", sa.String(16), sa.ForeignKey("groups.id"), nullable=False),
    sa.Column("labeler", sa.String(64), sa.ForeignKey("labelers.name"), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "labeler", "seq"),
    sa.Index(None, "group_id", "labeler"))

adapters = sa.Table(
    "adapters", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.UniqueConstraint("name", "version"))

runs = sa.Table(
    "runs", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("command", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

# ---- the team

accounts = sa.Table(
    "accounts", metadata,
    sa.Column("name", sa.String(64), primary_key=True),  # the name of the labeler that this person is
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=False),  # argon2id; "" cannot sign in with a password
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

invitations = sa.Table(
    "invitations", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the link's secret, here and below
    sa.Column("role", sa.String(16), nullable=False),  # "": a one-time link that signs `account` in
    sa.Column("account", sa.String(64), nullable=False, server_default=""),  # "": the invited person chooses the name
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
    sa.Column("used_by", sa.String(64), nullable=False, server_default=""),
    sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()))

sessions = sa.Table(
    "sessions", metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("accounts.name"), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
    sa.Index(None, "account"))

api_keys = sa.Table(
    "api_keys", metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("hint", sa.String(16), nullable=False),  # sk-...last4
    sa.Column("account", sa.String(64), sa.ForeignKey("accounts.name"), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),  # "" never
    sa.Column("revoked", sa.String(32), nullable=False, server_default=""))

audit = sa.Table(
    "audit", metadata,  # append-only, by triggers; each digest covers the one before
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("object", sa.String(200), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False))

quarantines = sa.Table(
    "quarantines", metadata,  # a labeler is quarantined while a row is not lifted
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("labeler", sa.String(64), sa.ForeignKey("labelers.name"), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("lifted_by", sa.String(64), nullable=False, server_default=""),
    sa.Column("lifted_at", sa.String(32), nullable=False, server_default=""),
    sa.Index(None, "labeler"))

# ---- the work

projects = sa.Table(
    "projects", metadata,  # how a set is ranked; a set without a row has the defaults
    sa.Column("set_seq", sa.Integer, sa.ForeignKey("sets.seq"), primary_key=True),
    sa.Column("settings", sa.Text, nullable=False))

guidelines = sa.Table(
    "guidelines", metadata,
    sa.Column("set_seq", sa.Integer, sa.ForeignKey("sets.seq"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

acknowledgements = sa.Table(
    "acknowledgements", metadata,
    sa.Column("set_seq", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("labeler", sa.String(64), primary_key=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.ForeignKeyConstraint(["set_seq", "version"], ["guidelines.set_seq", "guidelines.version"]))

claims = sa.Table(
    "claims", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("token", sa.String(32), nullable=False, unique=True),  # the fencing token
    sa.Column("set_seq", sa.Integer, sa.ForeignKey("sets.seq"), nullable=False),
    sa.Column("group_id", sa.String(16), sa.ForeignKey("groups.id"), nullable=False),
    sa.Column("labeler", sa.String(64), nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),  # normal, gold, repeat, review
    sa.Column("state", sa.String(16), nullable=False),  # live, done, skipped, expired, released
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("until", sa.String(32), nullable=False),
    sa.Index(None, "labeler", "set_seq", "state"),
    sa.Index(None, "group_id", "labeler"),
    sa.Index("ix_claims_one", "labeler", "set_seq", unique=True, sqlite_where=sa.text("state = 'live'"),
             postgresql_where=sa.text("state = 'live'")),
    sa.Index("ix_claims_live", "set_seq", "until", sqlite_where=sa.text("state = 'live'"),
             postgresql_where=sa.text("state = 'live'")))

critiques = sa.Table(
    "critiques", metadata,  # what a model holds of a group's answers; a project says who sees it
    sa.Column("group_id", sa.String(16), sa.ForeignKey("groups.id"), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("choice", sa.Integer, nullable=True),  # the answer that it holds for the best
    sa.Column("by", sa.String(300), nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

# ---- the demonstration desk

drafts = sa.Table(
    "drafts", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),  # made by the client or from the content
    sa.Column("desk", sa.String(64), nullable=False),  # the dataset that it is for
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("origin", sa.String(16), nullable=False),  # written, imported, generated
    sa.Column("author", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # pending, accepted, rejected; of the newest review
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "desk", "state", "seq"))

reviews = sa.Table(
    "reviews", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("draft_seq", sa.Integer, sa.ForeignKey("drafts.seq"), nullable=False),
    sa.Column("reviewer", sa.String(64), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # the demonstration as edited, "" if it was not
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "draft_seq"))

endpoints = sa.Table(
    "endpoints", metadata,  # OpenAI-compatible servers that may write answers; keys stay in the environment
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("url", sa.String(500), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("key_variable", sa.String(64), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False))

# ---- files and fine-tuning jobs, as the API shows them

files = sa.Table(
    "files", metadata,  # the bytes lie in files/ID; deleting one keeps its row
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),  # "" where the API is open
    sa.Column("filename", sa.String(255), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),  # "" never
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index(None, "key_id", "deleted"))

uploads = sa.Table(
    "uploads", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("filename", sa.String(255), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # as announced
    sa.Column("keep_seconds", sa.Integer, nullable=False),  # of the file that it becomes; 0: until it is deleted
    sa.Column("status", sa.String(16), nullable=False),  # pending, completed, cancelled, expired
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),
    sa.Column("file_id", sa.String(64), nullable=False, server_default=""))

upload_parts = sa.Table(
    "upload_parts", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("upload_seq", sa.Integer, sa.ForeignKey("uploads.seq"), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "upload_seq"))

jobs = sa.Table(
    "jobs", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # what was asked for; "auto" is replaced once the files are known
    sa.Column("status", sa.String(24), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("finished", sa.String(32), nullable=False, server_default=""),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.Column("model", sa.String(300), nullable=False, server_default=""),
    sa.Column("trained_tokens", sa.BigInteger, nullable=True),
    sa.Column("results", sa.Text, nullable=False, server_default="[]"),
    sa.Column("progress", sa.Text, nullable=False, server_default="{}"),
    sa.Column("token", sa.Integer, nullable=False, server_default="0"),  # the fencing token: one more per claim
    sa.Column("lease_owner", sa.String(128), nullable=False, server_default=""),
    sa.Column("lease_until", sa.String(32), nullable=False, server_default=""),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # claims since the last step that was made
    sa.Index(None, "status"))

job_events = sa.Table(
    "job_events", metadata,  # append-only, by triggers
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),  # of the content: said twice, it is stored once
    sa.Column("job_seq", sa.Integer, sa.ForeignKey("jobs.seq"), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index(None, "job_seq", "seq"))

job_checkpoints = sa.Table(
    "job_checkpoints", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_seq", sa.Integer, sa.ForeignKey("jobs.seq"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("model", sa.String(300), nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.UniqueConstraint("job_seq", "step"))

model_names = sa.Table(
    "model_names", metadata,  # names beside an adapter's own, such as ft:base:org:suffix:id
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(300), nullable=False, unique=True),
    sa.Column("adapter", sa.String(80), nullable=False),  # name@version
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()))

webhooks = sa.Table(
    "webhooks", metadata,  # who hears of jobs that end; of those that ended since
    sa.Column("url", sa.String(500), primary_key=True),
    sa.Column("since", sa.String(32), nullable=False))

deliveries = sa.Table(
    "deliveries", metadata,  # one event for one webhook
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("url", sa.String(500), sa.ForeignKey("webhooks.url"), nullable=False),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # waiting, delivered, given up
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next", sa.String(32), nullable=False),  # not before this
    sa.Column("said", sa.Text, nullable=False),  # why the last try failed
    sa.UniqueConstraint("url", "job_id"),
    sa.Index(None, "state", "next"))

once = sa.Table(
    "once", metadata,  # what a request made, so that the same one sent again makes nothing new
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("mark", sa.String(64), nullable=False),  # a digest of who sent what
    sa.Column("object", sa.String(64), nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),  # the client said that it was sending it again
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "mark", "created"))

# ---- what users of served models said and did

interactions = sa.Table(
    "interactions", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(128), nullable=False, unique=True),
    sa.Column("conversation", sa.String(128), nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("user", sa.String(64), nullable=False),  # a pseudonym; "" unknown
    sa.Column("model", sa.String(300), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("holdout", sa.Boolean, nullable=False),
    sa.Column("asked", sa.String(16), nullable=False),  # keyed digests of the conversation before the answer, and with
    sa.Column("said", sa.String(16), nullable=False),  # it: they link a new answer and a next turn; "" do not link
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32), nullable=False),  # "" never
    sa.Index(None, "user"),
    sa.Index(None, "conversation"),
    sa.Index(None, "asked"),
    sa.Index(None, "said"),
    sa.Index(None, "expires"))

interaction_events = sa.Table(
    "interaction_events", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("interaction_seq", sa.Integer, sa.ForeignKey("interactions.seq"), nullable=False),
    sa.Column("id", sa.String(128), nullable=False),  # made by the client: said twice, it is stored once
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.UniqueConstraint("interaction_seq", "id"))

interaction_uses = sa.Table(
    "interaction_uses", metadata,  # what was made from which interactions; it stays when these are gone
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False),  # a dataset or a set of answer groups
    sa.Column("interaction", sa.String(128), nullable=False),
    sa.Column("erased", sa.String(32), nullable=False, server_default=""),  # when its user asked for that
    sa.Column("user", sa.String(64), nullable=False, server_default=""),  # a pseudonym; "" unknown, or erased
    sa.UniqueConstraint("dataset", "interaction"),
    sa.Index(None, "interaction"),
    sa.Index(None, "user"))

# ---- rounds, and which model each loop has adopted

rounds = sa.Table(
    "rounds", metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("loop", sa.String(48), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # running, waiting, adopted, refused
    sa.Column("settings", sa.Text, nullable=False),  # as they were when the round began
    sa.Column("steps", sa.Text, nullable=False),  # what each step made, in the order in which they ended
    sa.Column("waits", sa.Text, nullable=False),  # for what, "" if it does not
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("updated", sa.String(32), nullable=False),
    sa.UniqueConstraint("loop", "number"))

adoptions = sa.Table(
    "adoptions", metadata,  # append-only: the last row of a loop is what it serves
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(96), nullable=False, unique=True),
    sa.Column("loop", sa.String(48), nullable=False),
    sa.Column("adapter", sa.String(80), nullable=False),  # name@version
    sa.Column("number", sa.Integer, nullable=False),  # of the round that it came from; 0: what the loop started from
    sa.Column("why", sa.String(16), nullable=False),  # start, round, rollback
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Index(None, "loop", "seq"))
