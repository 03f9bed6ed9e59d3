"""`serve`: a node until it is stopped."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from perdure.app import App
from perdure.cli import logs, pulse, screen, signals, streams
from perdure.cli.door import check_shared
from perdure.cli.idling import IdleTime
from perdure.cli.listening import (
    Advertise,
    Authority,
    Cert,
    Key,
    Listen,
    ServerName,
    TokenFile,
    door_from,
)
from perdure.cli.options import (
    DEFAULT_URL,
    AsJson,
    Grace,
    HealthAddress,
    LogFormat,
    LogFormats,
    LogLevel,
    StoreUrl,
)
from perdure.cli.outcome import Exit, exit_of
from perdure.cli.queueing import NoShards, QueueNames, TagNames, with_queues
from perdure.cli.target import find_app
from perdure.errors import PerdureError, UsageError
from perdure.node import Node, NodeOptions
from perdure.node.activities.job import named
from perdure.node.labels import listed, read_labels
from perdure.ports.cluster import WEIGHT_MAX
from perdure.ports.store import Units
from perdure.server import HealthPort

# Instances that are looked at when the node is ready, to see which code they need.
_LOOKED_AT = 1_000

Weight = Annotated[
    int | None,
    typer.Option(
        "--weight",
        metavar="NUMBER",
        min=0,
        max=WEIGHT_MAX,
        help="Its share of the work in a cluster, in proportion to the others.",
        show_default="100",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="A,B",
        help="Run workflows of these groups only.",
        show_default="all of the app",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        help="Describe the node, for pins. It may be repeated.",
        show_default=False,
    ),
]

Showing = Callable[[], Coroutine[object, object, None]]

COLLECTOR = (10_000, 10, 1_000)
"""The thresholds of Python's garbage collector.

With many activities under way nearly all young objects are in use. Python's default looks for
garbage after every 700 new objects, which takes a fifth of the time. The last number is the number
of collections of the middle generation before one of the oldest, which pauses every workflow.
"""

GC_RESIDENTS = 250
"""The option of a node whose file and environment do not give it: the process is the node's own."""

END_S = 3.0
"""Time for threads and tasks of the app to end after the node has stopped, attempts excepted."""

NAMED = 5
"""The largest number of attempts without an end that are named."""


OptionsFile = Annotated[
    Path | None,
    typer.Option("--options", metavar="FILE", help="A TOML file.", show_default=False),
]
NodeName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="The node's name.", show_default="APP-PID"),
]
Every = Annotated[
    float | None,
    typer.Option(
        "--every",
        metavar="SECONDS",
        min=0.1,
        help="How often --live shows it.",
        show_default="1",
    ),
]


def serve(  # noqa: PLR0913, PLR0917 - each is an option of the command
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="FILE:APP or MODULE:APP; FILE if it has one App."),
    ],
    store: StoreUrl = DEFAULT_URL,
    options: OptionsFile = None,
    name: NodeName = None,
    queues: QueueNames = None,
    tags: TagNames = None,
    no_shards: NoShards = False,
    grace: Grace = None,
    listen: Listen = None,
    advertise: Advertise = None,
    token_file: TokenFile = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    tls_ca: Authority = None,
    tls_name: ServerName = None,
    weight: Weight = None,
    groups: Groups = None,
    label: Labels = None,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="What is logged on stderr.")
    ] = LogLevel.INFO,
    log_format: LogFormats = LogFormat.TEXT,
    health: HealthAddress = None,
    until_idle: IdleTime = None,
    live: Annotated[bool, typer.Option("--live", help="Show what the node does, live.")] = False,
    every: Every = None,
    as_json: AsJson = False,
) -> int:
    """Run a node until SIGINT or SIGTERM.

    The node takes up everything that waits in the store, and prints one line when it is ready.
    The first signal stops it in order, and unfinished work goes on when a node runs again. Work
    that does not end within the grace is named and left: the process ends without it. A second
    signal ends the process at once, which loses nothing. With --live it shows instances, rates and
    latencies: as a table on a terminal, otherwise as a line each time.
    """
    if every is not None and not live:
        msg = "--every says how often --live shows something; give --live, too"
        raise UsageError(msg)
    logs.to_stderr(log_level, log_format)
    with redirect_stdout(sys.stderr):  # the first line on stdout says that the node is ready
        app = find_app(target)
    check_shared(store)
    given = _placed(NodeOptions.load(options), weight, groups, label)
    given = with_queues(given, queues, tags, no_shards=no_shards)
    if not given.gc_residents:
        given = replace(given, gc_residents=GC_RESIDENTS)
    door = door_from(listen, advertise, token_file, (tls_cert, tls_key, tls_ca, tls_name))
    node = Node(app, store, options=given, name=name, listen=door)
    showing = None
    if live:
        latencies = pulse.Latencies()
        node = Node(app, store, options=given, name=name, interceptors=[latencies], listen=door)
        showing = partial(pulse.show, node, latencies, every or 1.0, as_json=as_json)
    work = Work(app, node, store, grace, until_idle, showing, as_json)
    return asyncio.run(_serve(work, health))


def _placed(
    given: NodeOptions, weight: int | None, groups: str | None, labels: list[str] | None
) -> NodeOptions:
    """The options of the file and the environment, with those of the command line before them."""
    if weight is not None:
        given = replace(given, weight=weight)
    if groups is not None:
        given = replace(given, groups=tuple(listed(groups)))
    if labels:
        given = replace(given, labels={**given.labels, **read_labels(labels)})
    return given


@dataclass(frozen=True, slots=True)
class Work:
    """What is served, and how."""

    app: App
    node: Node
    url: str
    grace_s: float | None
    idle_s: float | None
    showing: Showing | None
    as_json: bool


async def _serve(work: Work, health: str | None) -> int:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        # Both before the node starts, because a standby may wait for its store for days.
        stack.enter_context(signals.first_sets(stop))
        port: HealthPort | None = None
        if health is not None:
            port = HealthPort(work.node, health, drain=stop.set)
            await stack.enter_async_context(port)
            screen.note(f"health port: http://{port.address}")
        return await _work(work, port, stop)


async def _work(work: Work, health: HealthPort | None, stop: asyncio.Event) -> int:
    node = work.node
    started = False
    try:
        started = await _unless_stopped(stop, node.start())
        if started:
            faulthandler.enable()  # code that crashes the interpreter leaves its stack
            gc.set_threshold(*COLLECTOR)
            try:
                _say_ready(work, health)
            except streams.AnswerLost as error:
                # A service may have no stdout. Its work does not depend on this line.
                streams.give_up_answers()
                screen.note(f"ready; stdout does not take the line that says so: {error}")
            await _say_what_lacks(work.app, node)
            if await _unless_stopped(stop, _first_of(_ends(work))) and work.idle_s is not None:
                screen.note(f"stopping: nothing was to be done for {work.idle_s:g} s")
            else:
                screen.note("stopping; once more to stop at once")
    finally:
        await node.stop(work.grace_s)
        if started:
            _make_sure_to_end(node, sys.exc_info()[1])
    screen.note("stopped; what did not finish goes on when a node runs again")
    return Exit.OK


def _ends(work: Work) -> list[Coroutine[object, object, None]]:
    """What ends the service beside a signal. The first one that ends counts, with its error."""
    ends: list[Coroutine[object, object, None]] = [work.node.wait_ended()]
    if work.showing is not None:
        ends.append(work.showing())
    if work.idle_s is not None:
        ends.append(work.node.wait_idle(work.idle_s))
    return ends


def _make_sure_to_end(node: Node, error: BaseException | None) -> None:
    """See to it that the process ends, now that the node has stopped and its store is free.

    Python waits for threads and tasks without a limit. Attempts that were left to themselves would
    act beside those of the next node, so nothing waits for them. The rest of the app has a moment
    to end in order.
    """
    code = Exit.OK
    if error is not None:
        if isinstance(error, PerdureError):
            code = exit_of(error)
        else:
            code = Exit.INTERNAL
    if node.abandoned:
        if error is not None:
            screen.error(str(error))
        left = named(node.abandoned, NAMED)
        screen.note(f"stopped without what does not end: {left}; it runs again when a node runs")
        _exit(code)
    ending = threading.Timer(END_S, _end_anyway, (code,))
    # Python waits for threads that are no daemons, which would make each stop take this long.
    ending.daemon = True
    ending.start()


def _end_anyway(code: int) -> None:
    others = set(threading.enumerate()) - {threading.main_thread()}
    threads = sorted(thread.name for thread in others if not thread.daemon)
    left = "tasks"
    if threads:
        left = f"threads {', '.join(threads)}"
    screen.note(f"ended although {left} of the app did not end within {END_S:g} s")
    _exit(code)


def _exit(code: int) -> NoReturn:
    """End the process as it is. Only logs and printed text are written."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[object, object, None]) -> bool:
    """Await the work, or give it up at the first signal and return False.

    A standby may wait for its store for days, so a signal must end the wait.
    """
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
        return False
    await working
    return True


async def _first_of(ends: Sequence[Coroutine[object, object, None]]) -> None:
    """Wait for the first of these to end. Its error is the command's."""
    waits = [asyncio.ensure_future(end) for end in ends]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        # In their order: the end of the node says more than that of what looks at it.
        for wait in waits:
            if wait.done():
                return await wait
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _say_ready(work: Work, health: HealthPort | None) -> None:
    app, node = work.app, work.node
    workflows = [name for name, _ in app.workflows()]
    activities = app.activities()
    if work.as_json:
        facts = {
            "node": node.name,
            "pid": os.getpid(),
            "store": work.url,
            "workflows": workflows,
            "activities": activities,
            "address": node.address,
            "health": None,
        }
        if health is not None:
            facts["health"] = health.address
        screen.say(screen.json_text(facts, indent=0))
        return
    counted = f"{screen.counted(len(workflows), 'workflow')}, {len(activities)} activities"
    if len(activities) == 1:
        counted = f"{screen.counted(len(workflows), 'workflow')}, 1 activity"
    listens = ""
    if node.address is not None:
        listens = f", listens at {node.address}"
    screen.say(
        f"ready: node {node.name} runs app {app.name!r} ({counted}) on {work.url}{listens}, "
        f"process {os.getpid()}"
    )


async def _say_what_lacks(app: App, node: Node) -> None:
    """Name the versions that open instances need and this app lacks.

    They are suspended at their next turn only, perhaps long after the deploy that lost their code.
    """
    query = Units(statuses=("running", "pending"), limit=_LOOKED_AT)
    rows = [view.row for view in (await node.store.query(query)).items]
    needed = Counter((row.type, row.type_version) for row in rows if row.type_version)
    for (name, version), count in needed.items():
        if app.find_workflow(name, version) is None:
            instances = screen.counted(count, "open instance")
            screen.note(
                f"the code of {name} {version} is missing in app {app.name!r}, and {instances} of "
                "it will be suspended (not_registered); serve the code that has it, too"
            )
