"""Whether two tables have the same rows."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from perdure.ports.moving import RowPart

_BYTES = 16
_encode = msgspec.msgpack.Encoder().encode


class Digest:
    """The number of the rows of a table, and a hash of all of them in the order of their keys."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        """Compare these columns. The other store may have others as well."""
        self.rows = 0
        self.columns = columns
        self._hash = blake2b(digest_size=_BYTES)

    def add(self, part: RowPart) -> None:
        """Add the next rows."""
        rows = part.rows
        if part.columns != self.columns:
            places = [part.columns.index(name) for name in self.columns]
            rows = [tuple(row[place] for place in places) for row in rows]
        # An encoded row says where it ends. So it does not matter how a table is cut in parts.
        self._hash.update(b"".join(map(_encode, rows)))
        self.rows += len(rows)

    @property
    def value(self) -> str:
        """The hash, as text."""
        return self._hash.hexdigest()
