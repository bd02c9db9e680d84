"""The schema's history, run by `database.Database.migrate` through Alembic. A new revision is a new file in versions/;
set `database.HEAD` to it. Published revisions never change."""
