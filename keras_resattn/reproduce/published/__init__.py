"""The published tables, by name."""

from keras_resattn.reproduce.published import resattn, warn
from keras_resattn.reproduce.rows import Row, Table, check_name

TABLES = {table.name: table for table in (*resattn.TABLES, *warn.TABLES)}


def get_table(name: str) -> Table:
    """Return the table with a name such as `"resattn/table1"`.

    Raises:
        ValueError: if there is none; the message lists all tables and suggests the closest ones.
    """
    return TABLES[check_name("table", name, TABLES)]


def original(table: Table, row: Row) -> tuple[Table, Row]:
    """Return the table and row that a row's run belongs to: its own, unless it shares the run of another row."""
    if row.same_as is None:
        return table, row
    label, _, name = row.same_as.partition("/")
    table = TABLES[f"{table.paper}/{label}"]
    return table, table.select([name])[0]
