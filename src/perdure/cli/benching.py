"""`bench`: the speed of this machine and this store, compared with earlier runs."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli import benchmarked, logs, screen
from perdure.cli.door import file_of, looking
from perdure.cli.options import AsJson, LogLevel
from perdure.cli.outcome import Exit
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import Store

if TYPE_CHECKING:
    from rich.live import Live

    from perdure.bench.stress import Removal, Report, Stress

# Drawing takes time of the loop that is measured, so it is done seldom.
_FRAMES_PER_SECOND = 4
_RESULTS = re.compile(r"(\d+)x(\d+)")


class ShapeName(Enum):
    """The work of one instance."""

    PARALLEL = "parallel"
    PAYLOAD = "payload"
    STEPS = "steps"
    STARTS = "starts"


Shape = Annotated[
    ShapeName, typer.Argument(metavar="SHAPE", help="parallel, payload, steps or starts.")
]
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="SECONDS", help="How long new ones are started.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Else a new file in this folder, removed afterwards.",
        show_default=False,
    ),
]
Outstanding = Annotated[
    int | None,
    typer.Option("--outstanding", metavar="N", help="Instances at once.", show_default="by shape"),
]
Activities = Annotated[
    int | None,
    typer.Option(
        "--activities",
        metavar="N",
        help="parallel: side by side (5); payload: small ones at the end (10); "
        "steps: in a chain (100).",
    ),
]
DelayMs = Annotated[
    float | None,
    typer.Option("--delay-ms", metavar="MS", help="parallel: what an activity takes (10)."),
]
Results = Annotated[
    str | None,
    typer.Option(
        "--results", metavar="NxKB,...", help="payload: results in sequence (6x10,6x50,8x100)."
    ),
]
Children = Annotated[
    int | None, typer.Option("--children", metavar="N", help="payload: children (5).")
]
OutputKb = Annotated[
    int | None, typer.Option("--output-kb", metavar="KB", help="payload: the output (100).")
]
Keep = Annotated[
    Path | None,
    typer.Option("--keep", metavar="FILE", help="Append the result to FILE, as a line of JSON."),
]
Compare = Annotated[
    Path | None,
    typer.Option("--compare", metavar="FILE", help="Run nothing: show the results kept in FILE."),
]


def bench(
    shape: Shape = ShapeName.PARALLEL,
    seconds: Seconds = 10,
    store: StoreUrl = None,
    outstanding: Outstanding = None,
    activities: Activities = None,
    delay_ms: DelayMs = None,
    results: Results = None,
    children: Children = None,
    output_kb: OutputKb = None,
    keep: Keep = None,
    compare: Compare = None,
    as_json: AsJson = False,
) -> int:
    """Put load on a store for some time, check every result, and print rates, latencies and memory.

    The shapes: parallel (instances of activities side by side), payload (large results), steps
    (chains of small activities), starts (workflows without activities). Exit code 1 when an
    instance failed or had a wrong result.
    """
    if compare is not None:
        return benchmarked.show(compare, as_json=as_json)
    own: dict[str, Any] = {
        "outstanding": outstanding,
        "activities": activities,
        "delay_ms": delay_ms,
        "children": children,
        "output_kb": output_kb,
    }
    if results is not None:
        own["results"] = _pairs(results)
    # Only errors: a warning in the middle would tear the line that is drawn live.
    logs.to_stderr(LogLevel.ERROR)
    with _place(store) as url:
        report = asyncio.run(_run(url, shape.value, own, seconds, quiet=as_json))
    if keep is not None:
        benchmarked.keep(report, keep)
    if as_json:
        screen.json(report)
    else:
        screen.show(benchmarked.table(report))
    if report.failed or not report.completed:
        return Exit.FAILED
    return Exit.OK


@contextmanager
def _place(url: str | None) -> Generator[str]:
    """The named store, or a new file on the disk of this folder that is removed afterwards."""
    if url is not None:
        yield url
        return
    # Not in /tmp, which is memory on many systems and says nothing about a disk.
    try:
        folder = tempfile.TemporaryDirectory(dir=".", prefix="perdure-bench-")
    except OSError as error:
        msg = f"no store can be made in {Path.cwd()}: {error.strerror}; name one with --store"
        raise StoreUnavailable(msg) from error
    with folder as name:
        yield f"sqlite:///{name}/bench.db"


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _RESULTS.fullmatch(part.strip())
        if match is None:
            msg = f"--results {text!r}: write how many of how many KB, for example 6x10,6x50,8x100"
            raise UsageError(msg)
        pairs.append((int(match[1]), int(match[2])))
    return tuple(pairs)


def _stress(url: str, shape: str, own: dict[str, Any], seconds: float, removal: Removal) -> Stress:
    from perdure.bench.shapes import SHAPES
    from perdure.bench.stress import Stress

    kind = SHAPES[shape]
    given = {name: value for name, value in own.items() if value is not None}
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in known)
            msg = f"--{name.replace('_', '-')} means nothing to the shape {shape}; it has {options}"
            raise UsageError(msg)
    return Stress(kind(**given), url, seconds=seconds, removal=removal)


async def _run(url: str, shape: str, own: dict[str, Any], seconds: float, *, quiet: bool) -> Report:
    path = file_of(url)
    existing = path is not None and path.exists()
    removal: Removal = "never"  # a file of our own goes as a whole
    if path is None:
        removal = "at_once"  # memory would grow with each instance
    elif existing:
        removal = "at_end"
    stress = _stress(url, shape, own, seconds, removal)
    if existing:
        await _check_undisturbed(url, int(1000 * (seconds + stress.patience_s)))
    if quiet:
        return await stress.run()
    if not screen.notes().is_terminal:
        return await stress.run(lambda: screen.note(f"bench: {shape} for {seconds:g} s"))
    with _live(stress, shape):
        return await stress.run()


async def _check_undisturbed(url: str, span_ms: int) -> None:
    """Refuse a store with other work to do.

    The node of a run has no code but its own, and would suspend every other instance that it took
    up.

    Raises:
        UsageError: naming an instance that is due.
    """
    from perdure.bench.stress import PREFIX

    async with looking(url) as store:
        other = await _due(store, span_ms, PREFIX)
    if other is not None:
        msg = (
            f"{other!r} in {url} has work to do, and the node of a bench does not have its code: "
            "it would be suspended. Let it end first, or use a copy of the file"
        )
        raise UsageError(msg)


async def _due(store: Store, span_ms: int, ours: str) -> str | None:
    """An instance that a node would take up within this time, other than those of a bench."""
    scopes = scopes_of(store.info.shards)
    # An instance that becomes due while the run lasts counts, too.
    until_ms = await store.now() + span_ms
    after: str | None = None
    while True:
        page = await store.wakes(scopes, until_ms, after, 1_000)
        for wake in page.items:
            if not wake.unit.startswith(ours):
                return wake.unit
        after = page.next
        if after is None:
            return None


def _live(stress: Stress, shape: str) -> Live:
    """A line that is drawn again and again."""
    from rich.live import Live

    return Live(
        get_renderable=lambda: benchmarked.progress(stress, shape),
        console=screen.notes(),
        transient=True,
        refresh_per_second=_FRAMES_PER_SECOND,
    )
