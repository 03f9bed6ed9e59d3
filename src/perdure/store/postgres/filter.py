"""The conditions of a list, with all values as parameters."""

from __future__ import annotations

from typing import Any


class Filter:
    """The conditions of a list."""

    def __init__(self) -> None:
        """Start with none."""
        self.terms: list[str] = ["true"]
        self.values: list[Any] = []

    def __str__(self) -> str:
        """What stands behind WHERE."""
        return " AND ".join(self.terms)

    def mark(self, value: Any) -> str:
        """Add a value. Returns the mark that stands for it."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add(self, term: str, *values: Any) -> None:
        """Add a condition. Each `{}` in it stands for a value."""
        self.terms.append(term.format(*map(self.mark, values)))

    def one_of(self, column: str, values: tuple[str, ...]) -> None:
        """Add a condition that a column has one of the values. Without values there is none."""
        if values:
            self.add(f"{column} = ANY ({{}}::text[])", list(values))
