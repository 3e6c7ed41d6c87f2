"""All tables, by name."""

from keras_resattn.reproduce.published import resattn, warn
from keras_resattn.reproduce.rows import Row, Table, check_name

TABLES = {table.name: table for table in (*resattn.TABLES, *warn.TABLES)}


def get_table(name: str) -> Table:
    """Returns the named table.

    Raises:
        ValueError: if there is none; the message holds the closest ones.
    """
    return TABLES[check_name("table", name, TABLES)]


def home(table: Table, row: Row) -> tuple[Table, Row]:
    """Returns the table and the row whose run a row shares: mostly itself."""
    if row.same_as is None:
        return table, row
    label, _, name = row.same_as.partition("/")
    table = TABLES[f"{table.paper}/{label}"]
    return table, table.select([name])[0]
