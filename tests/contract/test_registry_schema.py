"""The registry's migrations make exactly the tables that its code speaks of."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from services.registry.tables import Table
from tests.fixtures.registry import RegistryCore


def test_the_migrations_make_the_tables_of_the_code(core: RegistryCore) -> None:
    with core.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
