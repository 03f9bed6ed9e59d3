"""Each example's app as a crash scenario: what its `main` does, in a form that can begin anew after each crash."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure import AlreadyStarted, Client
from perdure.testing.crash import Scenario

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

Script = Callable[[Client], Awaitable[object]]

SCENARIOS: dict[str, Scenario] = {}
"""By the example's name."""

WITHOUT = {
    "cluster_demo": "it kills a node itself",
    "demo": "it kills the shop itself: tests/examples/test_demo.py runs it",
    "queues": "it has workers of its own: tests/queues kills some",
}
"""Examples that are not crashed here, and why."""


def runs(*instances: tuple[Any, ...], sends: tuple[tuple[str, str, object], ...] = ()) -> Script:
    """Start (workflow, id, arguments...), send (id, channel, value), and wait for all ends."""

    async def script(client: Client) -> object:
        handles = [client.workflow(name, id=own) for name, own, *_ in instances]
        await asyncio.gather(
            *(handle.start(*args) for handle, (_, _, *args) in zip(handles, instances, strict=True))
        )
        for target, channel, value in sends:
            await client.get(target).send(channel, value)
        ends = [await handle.wait() for handle in handles]
        return [(end.id, end.status, end.result()) for end in ends]

    return script


def crash(example: str, script: Script, app: str = "app", **options: Any) -> None:
    """Add an example. Most of them do things at the same time, so that events may come in another order."""
    options.setdefault("ordered", False)
    SCENARIOS[example] = Scenario(getattr(importlib.import_module(example), app), script, **options)


crash(
    "another_process",
    runs(("greeter", "greeter-1", "Hello"), sends=(("greeter-1", "name", "world"),)),
)
crash("anyio_groups", runs(("crawl", "crawl-1", 3)))
crash(
    "approval",
    runs(
        ("expense", "lunch", 1_250),
        ("expense", "yacht", 95_000_000),
        sends=(
            ("lunch", "decision", {"by": "Ada", "yes": True}),
            ("yacht", "decision", {"by": "Ada", "yes": False}),
        ),
    ),
)
crash(
    "attributes",
    runs(
        ("order", "o-1", "DE", [400]),
        ("order", "o-2", "FR", [900, 800]),
        sends=(("o-2", "approved", True),),
    ),
)
crash("backoffs", runs(("stubborn", "stubborn-1"), ("not_stubborn", "not-stubborn-1")))
crash("chain", runs(("words", "words-1", "example.com")), ordered=True)
crash("children", runs(("shipment", "shipment-1", ["book", "lamp"])))
crash("deadline", runs(("hurried", "hurried-1")))
crash("detached", runs(("checkout", "checkout-1", "Ada")))
crash(
    "eternal",
    runs(("counter", "c", 0, 6), sends=(("c", "add", 1), ("c", "add", 2), ("c", "add", 3))),
)
crash("fan_in", runs(("sum_of_squares", "squares-1", 6), ("five_at_a_time", "squares-2", 7)))
crash("fragile", runs(("careful", "careful-1", "input"), sends=(("careful-1", "go-on", True),)))
crash("greetings", runs(("both", "greetings-1")))
crash("guard", runs(("reader", "reader-1")), app="hidden")
crash("heartbeats", runs(("backup", "backup-1", 10)))
crash("hello", runs(("hello", "hello-1", "world")), ordered=True)
crash("interceptors", runs(("checkout", "checkout-1", 1_200)))
crash(
    "kv_status", runs(("crawl", "crawl-1", ["index", "about"]), sends=(("crawl-1", "end", True),))
)
crash(
    "listing",
    runs(
        ("order", "o-1", 100),
        ("order", "o-2", -1),
        ("order", "o-3", 5_000),
        sends=(("o-3", "approved", True),),
    ),
)
crash("logs", runs(("noisy", "noisy-1", "world")))
crash("metrics", runs(("checkout", "order-1", 1_990)))
crash("mismatch", runs(("mail", "mail-1", "hello"), sends=(("mail-1", "go", True),)), app="good")
crash("outcome", runs(("HelloWorld", "hello-1", "Rust"), ("HelloWorld", "hello-2", "")))
crash("own_store", runs(("hello", "hello-1", "log")))
crash(
    "patched",
    runs(("announce", "new", "hello"), sends=(("new", "ready", True), ("new", "go", True))),
    app="after",
)
crash(
    "plain_functions", runs(("work", "work-1")), same_values=False
)  # the names of a thread and a process
crash(
    "resources", runs(("register", "register-1", ["Ada", "Grace"])), same_values=False
)  # a table in memory
crash("saga", runs(("trip", "trip-1")), ordered=True)
crash("select_first", runs(("fastest", "fastest-1")))
crash("standby", runs(("patient", "patient-1"), sends=(("patient-1", "word", "hello"),)))
crash("structured_logs", runs(("checkout", "order-1", 1_990)))
crash(
    "tested_workflow",
    runs(("membership", "ada", "Ada", 1, 1), sends=(("ada", "cancelled", "too loud"),)),
)
crash(
    "sync_code",
    runs(
        ("order", "order-hat", "hat"),
        ("order", "order-yacht-50", "yacht-50"),
        sends=(("order-yacht-50", "approved", True),),
    ),
)
crash("two_versions", runs(("payment", "old", 50_000), sends=(("old", "go", True),)))
crash("variables", runs(("invoice", "invoice-1", 3), sends=(("invoice-1", "print", True),)))


async def cancel_and_terminate(client: Client) -> object:
    polite, rude = (client.workflow("operate", id=name) for name in ("polite", "rude"))
    for handle in (polite, rude):
        await handle.start()
        await handle.custom_status(str, after_version=0, timeout=20)
    await polite.cancel("the shift ends")
    await rude.terminate("fire")
    return [(await handle.wait()).status for handle in (polite, rude)]


crash("cancel", cancel_and_terminate)


async def pause_and_resume(client: Client) -> object:
    handle = client.workflow("adder", id="adder-1")
    await handle.start()
    await handle.send("number", 1)
    await handle.pause("maintenance")
    await handle.send("number", 2)
    await handle.resume()
    return await handle.result()


crash("pause", pause_and_resume)


async def replace_and_delay(client: Client) -> object:
    with suppress(AlreadyStarted):  # by the second one, in the life before
        await client.workflow("report", id="report").start("May")
    june = client.workflow("report", id="report", if_exists="replace")
    await june.start("June")
    await june.send("go", True)
    await client.workflow("later", id="later", delay=0.02).run()
    return await june.result()


crash("start_policies", replace_and_delay, same_values=False)  # `later` returns the time


async def late_and_early(client: Client) -> object:
    late, early = (client.workflow("race", id=name) for name in ("late", "early"))
    await late.start(0.005)
    await late.custom_status(str, after_version=0, timeout=20)
    await late.raise_event("go", "better late")
    await early.start(3_600.0)
    await early.raise_event("go", "in time")
    return [await late.result(), await early.result()]


crash("timer_or_event", late_and_early)


def quick_shop() -> None:
    """The shop with what it does outside taking no time."""
    import shop

    effect = shop.Ledger.effect

    async def at_once(ledger: shop.Ledger, text: str, seconds: float) -> str:
        return await effect(ledger, text, 0.0)

    shop.Ledger.effect = at_once  # type: ignore[method-assign]
    shop.Ledger.write = lambda ledger, what, text="": None  # type: ignore[method-assign]  # it prints, too
    os.environ["SHOP_FOLDER"] = tempfile.gettempdir()
    small, large = (o for o in shop.read_orders() if o.id in ("order-1001", "order-1002"))
    crash(
        "shop",
        runs(
            ("checkout", small.id, small),
            ("checkout", large.id, large),
            sends=((large.id, "approved", True),),
        ),
    )


quick_shop()
globals().update(SCENARIOS)  # so that `example_scenarios.py:chain` names one
