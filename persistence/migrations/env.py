"""Alembic's entry: runs the migrations on the connection that `persistence/schema.py` hands over.

That connection is in a transaction already, so Alembic neither begins nor commits one.
"""

from alembic import context

from persistence.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
