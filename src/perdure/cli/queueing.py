"""The options of `serve` that are about shared queues."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from perdure.node import NodeOptions

QueueNames = Annotated[
    str | None,
    typer.Option(
        "--queues",
        metavar="NAMES",
        help="Run tasks of these queues only: gpu,mail. With '' of none.",
        show_default="all",
    ),
]
TagNames = Annotated[
    str | None,
    typer.Option(
        "--tags",
        metavar="NAMES",
        help="Take tasks with one of these tags, too.",
        show_default="none",
    ),
]
NoShards = Annotated[
    bool, typer.Option("--no-shards", help="Own no instances, and only run tasks of queues.")
]


def with_queues(
    options: NodeOptions, queues: str | None, tags: str | None, *, no_shards: bool
) -> NodeOptions:
    """The options, changed by those of the command line.

    Raises:
        UsageError: a name cannot be that of a queue or of a tag.
    """
    if queues is not None:
        options = replace(options, serves=_names(queues))
    if tags is not None:
        options = replace(options, tags=_names(tags))
    if no_shards:
        options = replace(options, worker_only=True)
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
