"""More kinds for random programs: ids that are used again, and letters that outlast an execution."""

from __future__ import annotations

import asyncio
from typing import Any

from random_programs import GROUPS, Env, Node, act, leaf, leaf_kind, letters

from perdure import ChildError, workflow


@leaf_kind
async def same_child(node: Node, env: Env) -> Any:
    """The same id in each execution and in each place of the tree: it may be taken."""
    try:
        env.log.append(await workflow.child(leaf, id="same")("same"))
    except ChildError as error:
        env.log.append(type(error).__name__)


@leaf_kind
async def same_detached(node: Node, env: Env) -> Any:
    env.log.append(workflow.child(leaf, id="same-detached").detach("same"))


@leaf_kind
async def letters_in_a_row(node: Node, env: Env) -> Any:
    """As many letters as come within a while; the others are for the next execution."""
    for number in range(node[2]):
        try:
            async with asyncio.timeout(1):
                env.log.append(await letters.receive())
        except TimeoutError:
            env.log.append("no more letters")
        await act(f"{node[1]}.{number}")


GROUPS["continuing"] = (
    ["one", "sleeps", "same_child", "same_detached", "letters_in_a_row", "receiving", "variables"],
    ["sequence", "gather", "timeout", "first", "group"],
)
