"""Runs the migrations on the connection that the store hands over, inside its transaction."""

from alembic import context

from control.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
