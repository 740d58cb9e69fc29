"""Alembic's entry: runs on the connection that `services.store.migrate` hands over. `alembic` itself is not called."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,  # SQLite changes a table by writing it anew
    transactional_ddl=False,  # the caller's transaction holds it all
)
context.run_migrations()
