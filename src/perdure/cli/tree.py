"""`tree`: an instance, its children, and theirs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.cli import screen
from perdure.cli.door import must_find, reading
from perdure.cli.listings import COLOURS
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl
from perdure.cli.outcome import Exit
from perdure.client.tree import Tree, read_tree

if TYPE_CHECKING:
    from rich.tree import Tree as Branch


def tree(id: Id, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Show an instance with its children, and theirs. Detached instances have no parent."""
    found = asyncio.run(_read(store, id))
    if as_json:
        screen.json(_nested(found))
    else:
        screen.show(_drawn(found))
    return Exit.OK


async def _read(url: str, id: str) -> Tree:
    async with reading(url) as store:
        await must_find(store, id)
        return await read_tree(store, id)


def _nested(root: Tree) -> dict[str, object]:
    """The tree as JSON. No recursion: a chain of children may be deeper than Python's stack."""
    document = _entry(root)
    waiting = [(root, document)]
    while waiting:
        branch, entry = waiting.pop()
        children = [_entry(child) for child in branch.children]
        entry["children"] = children
        waiting.extend(zip(branch.children, children, strict=True))
    return document


def _entry(branch: Tree) -> dict[str, object]:
    instance = branch.instance
    return {
        "id": instance.id,
        "type": instance.type,
        "status": instance.status,
        "reason": instance.reason,
    }


def _drawn(root: Tree) -> Branch:
    from rich.text import Text
    from rich.tree import Tree as Branch

    def label(branch: Tree) -> Text:
        instance = branch.instance
        why = ""
        if instance.reason:
            why = f" ({instance.reason})"
        state = (instance.status + why, COLOURS.get(instance.status, ""))
        return Text.assemble(instance.id, " ", (instance.type, "bright_black"), " ", state)

    # Without recursion, as in `_nested`.
    drawn = Branch(label(root))
    waiting = [(root, drawn)]
    while waiting:
        branch, place = waiting.pop()
        waiting.extend((child, place.add(label(child))) for child in branch.children)
    return drawn
