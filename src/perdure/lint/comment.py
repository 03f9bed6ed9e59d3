"""The comment `# perdure: ignore[PD101, PD205]`.

With it the author of a line takes the responsibility for these findings in the line.
"""

from __future__ import annotations

import linecache
import re

_COMMENT = re.compile(r"#\s*perdure:\s*ignore(?P<rest>.*)")
_CODES = re.compile(r"\[\s*(?P<codes>\w+(?:\s*,\s*\w+)*)\s*\]")


def codes_in(comment: str) -> tuple[int, tuple[str, ...]] | None:
    """The place in a comment where the request begins, and its codes. None for another comment."""
    match = _COMMENT.search(comment)
    if match is None:
        return None
    named = _CODES.match(match["rest"])
    if named is None:
        # Without codes nothing is ignored, and the report asks for them.
        return match.start(), ()
    return match.start(), tuple(map(str.strip, named["codes"].split(",")))


def is_ignored(file: str, line: int, code: str) -> bool:
    """Whether a line of an imported file asks to ignore a code.

    The first question about a file reads the file.
    """
    found = codes_in(linecache.getline(file, line))
    return found is not None and code in found[1]
