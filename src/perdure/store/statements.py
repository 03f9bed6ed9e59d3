"""Named SQL statements from the `.sql` files of an adapter.

A file has the statements of one concern. A line `-- name: insert_unit` begins a statement. Comments
below that line say why it is as it is. PostgreSQL's files can stand beside SQLite's and use the
same names.
"""

from __future__ import annotations

from importlib.resources import files

_NAME = "-- name: "


def read_sql(package: str, name: str) -> str:
    """The text of `sql/<name>.sql` in an adapter's package."""
    return (files(package) / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def statements(package: str, name: str) -> dict[str, str]:
    """The statements of a file by their names, in the order of the file."""
    return parse(read_sql(package, name))


def parse(text: str) -> dict[str, str]:
    """The statements of a text by their names, without comments and without the last semicolon.

    Raises:
        ValueError: a name stands twice, or a statement has no text.
    """
    found: dict[str, str] = {}
    # The text before the first name is the comment of the file.
    for block in ("\n" + text).split("\n" + _NAME)[1:]:
        name, _, rest = block.partition("\n")
        # SQLite would read the comments each time that it prepares the statement.
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        sql = "\n".join(lines).strip().removesuffix(";")
        if name in found or not sql:
            msg = f"the statement {name!r} stands twice, or has no text"
            raise ValueError(msg)
        found[name] = sql
    return found
