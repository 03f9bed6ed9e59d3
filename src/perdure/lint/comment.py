"""`# perdure: ignore[PD101, PD205]`: a comment by which an author takes the responsibility for one line."""

from __future__ import annotations

import linecache
import re

_COMMENT = re.compile(r"#\s*perdure:\s*ignore(?P<rest>.*)")
_CODES = re.compile(r"\[\s*(?P<codes>\w+(?:\s*,\s*\w+)*)\s*\]")


def codes_in(comment: str) -> tuple[int, tuple[str, ...]] | None:
    """Where in a comment the request begins, and its codes; None for any other comment."""
    match = _COMMENT.search(comment)
    if match is None:
        return None
    named = _CODES.match(match["rest"])
    return match.start(), tuple(
        part.strip() for part in named["codes"].split(",")
    ) if named is not None else ()


def is_ignored(file: str, line: int, code: str) -> bool:
    """Whether a line of a file that has been imported asks to ignore a code. Reads the file when asked first."""
    found = codes_in(linecache.getline(file, line))
    return found is not None and code in found[1]
