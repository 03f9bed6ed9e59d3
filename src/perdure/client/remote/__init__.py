"""Clients without a store: they ask nodes, over links, for everything.

`protocol.py` says what travels, and nodes answer it in `perdure.node.front`.
"""

from __future__ import annotations

SCHEME = "perdure"


def is_remote(url: object) -> bool:
    """Whether a URL names nodes, and not a store."""
    return isinstance(url, str) and url.partition(":")[0] == SCHEME
