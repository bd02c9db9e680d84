"""What Alembic runs: the revisions, on the connection and inside the transaction that `migrate` opened."""

from alembic import context

from tunesmith.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata,
                  transactional_ddl=True, render_as_batch=True)
context.run_migrations()
