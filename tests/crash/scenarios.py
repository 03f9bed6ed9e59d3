"""What is crashed: one scenario per feature, each small, each with a result that is known."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from perdure import ActivityError, App, Client, NotFound, RetryPolicy, activity, workflow
from perdure.testing.crash import Scenario

HOUR = 3_600

app = App("crash")


@app.activity
async def double(n: int) -> int:
    return 2 * n


@app.activity
def increment(n: int) -> int:
    return n + 1


# ---------------------------------------------------------------- a chain


@app.workflow
async def chain(n: int) -> int:
    for _ in range(3):
        n = await double(n)
        n = await increment(n)
    return n


async def run_chain(client: Client) -> object:
    return await client.workflow(chain, id="chain").run(1)


chain_scenario = Scenario(app, run_chain)


# ---------------------------------------------------------------- fan-out


@app.workflow
async def fan_out(n: int) -> list[int]:
    return await asyncio.gather(*(double(i) for i in range(n)), *(increment(i) for i in range(n)))


async def run_fan_out(client: Client) -> object:
    return await client.workflow(fan_out, id="fan-out").run(4)


fan_out_scenario = Scenario(app, run_fan_out, ordered=False)


# ---------------------------------------------------------------- retries


@app.activity(retry=RetryPolicy(maximum_attempts=4, initial_interval=0.002, backoff="fixed"))
async def shaky(fails: int) -> int:
    if activity.info().attempt <= fails:
        raise ConnectionError(f"attempt {activity.info().attempt}")
    return fails


@app.workflow
async def retries() -> list[str]:
    seen = [str(await shaky(2))]
    try:
        await shaky(9)
    except ActivityError as error:
        seen.append(error.failure.type)
    return seen


async def run_retries(client: Client) -> object:
    return await client.workflow(retries, id="retries").run()


retry_scenario = Scenario(app, run_retries)


# ---------------------------------------------------------------- timers and races


@app.workflow
async def races() -> list[str]:
    seen: list[str] = []
    try:
        async with asyncio.timeout(0.004):
            await workflow.receive("never", str)
    except TimeoutError:
        seen.append("late")
    async with asyncio.timeout(HOUR):
        seen.append(str(await double(21)))
    which, _ = await workflow.select(
        workflow.sleep(0.002), workflow.sleep(HOUR), workflow.receive("never", str)
    )
    seen.append(f"first: {which}")
    await asyncio.sleep(0.002)
    return seen


async def run_races(client: Client) -> object:
    return await client.workflow(races, id="races").run()


race_scenario = Scenario(app, run_races)


# ---------------------------------------------------------------- messages


numbers = workflow.Channel[int]("numbers")


@app.workflow
async def adder(count: int) -> int:
    total = 0
    for _ in range(count):
        total += await numbers.receive()
        total = await increment(total)
    return total


@app.workflow
async def sender(target: str) -> str:
    workflow.send(target, numbers, 1_000)
    workflow.send(target, numbers, await double(1_000))
    return "sent"


async def run_messages(client: Client) -> object:
    handle = client.workflow(adder, id="adder")
    await handle.start(4)
    await handle.send(numbers, 1)
    await handle.send(numbers, 10)
    await client.workflow(sender, id="sender").run("adder")
    return await handle.result()


message_scenario = Scenario(app, run_messages, ordered=False)


# ---------------------------------------------------------------- positional events


@app.workflow
async def listener() -> list[str]:
    workflow.set_status("listens")
    first = await workflow.wait_event("news", str)
    workflow.set_status("heard one")
    return [first, await workflow.wait_event("news", str)]


async def run_events(client: Client) -> object:
    handle = client.workflow(listener, id="listener")
    await handle.start()
    await handle.custom_status(str, after_version=0, timeout=20)
    await handle.raise_event("news", "one")
    await handle.custom_status(str, after_version=1, timeout=20)
    await handle.raise_event("news", "two")
    return await handle.result()


event_scenario = Scenario(app, run_events)


# ---------------------------------------------------------------- children


@app.workflow
async def leaf(n: int) -> int:
    if n == 13:
        raise ValueError("unlucky")
    return await double(n)


@app.workflow
async def tree(n: int) -> list[object]:
    first = await leaf(n)
    pair = await asyncio.gather(
        workflow.child(leaf, id="named")(n + 1), leaf(13), return_exceptions=True
    )
    return [first, pair[0], type(pair[1]).__name__]


async def run_tree(client: Client) -> object:
    return await client.workflow(tree, id="tree").run(5)


child_scenario = Scenario(app, run_tree, ordered=False)


# ---------------------------------------------------------------- continue-as-new


@app.workflow
async def rounds(left: int, total: int) -> int:
    total += await numbers.receive()
    if left > 1:
        workflow.continue_as_new(rounds, left - 1, total)
    return await double(total)


async def run_rounds(client: Client) -> object:
    handle = client.workflow(rounds, id="rounds")
    await handle.start(3, 0)
    for n in (1, 2, 3):
        await handle.send(numbers, n)
    return await handle.result()


round_scenario = Scenario(app, run_rounds, ordered=False)


# ---------------------------------------------------------------- cancel with cleanup


@app.workflow
async def careful() -> str:
    try:
        await double(1)
        workflow.set_status("waits")
        await asyncio.sleep(HOUR)
    except asyncio.CancelledError:
        await double(100)
        await leaf(7)
        raise
    return "slept"


async def run_careful(client: Client) -> object:
    handle = client.workflow(careful, id="careful")
    await handle.start()
    await handle.custom_status(str, after_version=0, timeout=20)
    await handle.cancel("enough")
    return (await handle.wait()).status


cancel_scenario = Scenario(app, run_careful)


# ---------------------------------------------------------------- KV, checkpoints, variables


@app.workflow
async def counting(times: int) -> int:
    for _ in range(times):
        n = workflow.kv.get("n", int, 0) or 0
        workflow.kv.set("n", await increment(n))
        await workflow.checkpoint("look", lambda: 1, type=int)
        workflow.value("half", n / 2)
    if times == 2:
        workflow.continue_as_new(counting, 1)
    return workflow.kv.get("n", int, 0) or 0


async def run_counting(client: Client) -> object:
    return await client.workflow(counting, id="counting").run(2)


kv_scenario = Scenario(app, run_counting)


# ---------------------------------------------------------------- an activity with a client, another instance's KV


@app.workflow
async def keeper(n: int) -> int:
    workflow.kv.set("n", n)
    return await increment(n)


@app.activity
async def ask(n: int) -> int:
    return await activity.client().workflow(keeper, id="keeper").run(n)


@app.workflow
async def asking() -> list[int | None]:
    kv = workflow.kv_of("keeper")
    return [await kv.get("n", int), await ask(5), await kv.get("n", int)]


async def run_asking(client: Client) -> object:
    return await client.workflow(asking, id="asking").run()


ask_scenario = Scenario(app, run_asking)


# ---------------------------------------------------------------- detached starts


@app.workflow
async def launcher() -> str:
    leaf.detach(1)
    increment.detach(2)
    workflow.child(leaf, id="own-name").detach(3)
    return "launched"


async def run_launcher(client: Client) -> object:
    return await client.workflow(launcher, id="launcher").run()


detach_scenario = Scenario(app, run_launcher)


# ---------------------------------------------------------------- pause and resume


async def run_paused(client: Client) -> object:
    handle = client.workflow(adder, id="paused")
    await handle.start(2)
    await handle.pause("hold on")
    await handle.send(numbers, 1)
    await handle.send(numbers, 2)
    await handle.resume()
    return await handle.result()


pause_scenario = Scenario(app, run_paused, ordered=False)


# ---------------------------------------------------------------- many at once


async def run_crowd(client: Client) -> object:
    handles = [client.workflow(chain, id=f"chain-{n}") for n in range(5)]
    await asyncio.gather(*(handle.start(n) for n, handle in enumerate(handles)))
    return await asyncio.gather(*(handle.result() for handle in handles))


crowd_scenario = Scenario(app, run_crowd)


# ---------------------------------------------------------------- deleting and pruning


@app.workflow
async def twig(n: int) -> str:
    return await workflow.receive("go", str)


@app.workflow
async def bough(n: int) -> str:
    return await workflow.child(twig, id=f"twig-{n}", parent_close="abandon")(n)


@app.workflow
async def grove() -> list[str]:
    return await asyncio.gather(*(workflow.child(bough, id=f"bough-{n}")(n) for n in range(2)))


@app.workflow
async def clan(n: int) -> int:
    return sum([await workflow.child(member, id=f"member-{i}")(i) for i in range(n)])


@app.workflow
async def member(n: int) -> int:
    return n


@app.workflow
async def laps(n: int) -> int:
    if n:
        workflow.continue_as_new(laps, n - 1)
    return n


@app.workflow
async def mark() -> None:
    pass


async def run_removal(client: Client) -> object:
    """Marks say how far the script came: what was deleted must not be started again by its next life."""

    async def is_there(id: str) -> bool:
        return any(found.id == id for found in await client.list(id_prefix=id))

    if not await is_there("mark-1"):
        await client.workflow(grove, id="grove").start()
        await client.workflow(clan, id="clan").run(2)
        await client.workflow(laps, id="laps").run(3)
        while not (await is_there("twig-0") and await is_there("twig-1")):
            await asyncio.sleep(0)
        await client.workflow(mark, id="mark-1").run()
    for root in ("grove", "clan"):
        with suppress(NotFound):
            await client.get(root).delete(force=root == "grove")
    await client.get("laps").prune(keep_last=2)
    await client.workflow(mark, id="mark-2").run()
    return sorted([found.id for found in await client.list()]), await client.get(
        "laps"
    ).executions()


def check_removal(result: object) -> None:
    assert result == (["laps", "mark-1", "mark-2"], [3, 4]), result


removal_scenario = Scenario(app, run_removal, check=check_removal, ordered=False)


# ---------------------------------------------------------------- order over continue-as-new


ordered_letters = workflow.Channel[int]("ordered")


@app.workflow
async def reader(got: list[int], end: int) -> list[int]:
    """Three letters an execution, with work in between, so that letters gather meanwhile."""
    for _ in range(3):
        got.append(await ordered_letters.receive())
        await increment(0)
        if len(got) == end:
            return got
    workflow.continue_as_new(reader, got, end)


async def run_reader(client: Client) -> object:
    handle = client.workflow(reader, id="reader")
    await handle.start([], 8)
    for n in range(8):
        await handle.send(ordered_letters, n)
    return await handle.result()


def check_reader(result: object) -> None:
    assert result == list(range(8)), result


order_scenario = Scenario(app, run_reader, ordered=False, check=check_reader)


# ---------------------------------------------------------------- a start that is taken back, and one that is replaced


@app.workflow
async def resting(name: str) -> str:
    leaf.detach(1)
    return await workflow.receive("never", str)


async def run_taken_back(client: Client) -> object:
    statuses: list[str] = []
    for verb in ("cancel", "terminate", "cancel"):
        handle = client.workflow(resting, id=f"taken-back-{len(statuses)}", delay=HOUR)
        await handle.start("taken back")
        await (handle.cancel("not wanted") if verb == "cancel" else handle.terminate("not wanted"))
        statuses.append((await handle.wait()).status)
    return statuses, len(await client.list(limit=None))


def check_taken_back(result: object) -> None:
    assert result == (["cancelled"] * 3, 3), result


taken_back_scenario = Scenario(app, run_taken_back, check=check_taken_back)


@app.workflow
async def answering(n: int) -> int:
    return await double(n)


async def run_replaced(client: Client) -> object:
    first = client.workflow(resting, id="replaced")
    if not any(found.type == "answering" for found in await client.list()):
        await first.start("replaced")
    return await client.workflow(answering, id="replaced", if_exists="replace").run(21)


def check_replaced(result: object) -> None:
    assert result == 42, result


replace_scenario = Scenario(app, run_replaced, check=check_replaced, ordered=False)


# ---------------------------------------------------------------- an id that is used again


@app.workflow
async def note(done: str, result: int) -> int:
    """Remember for later lives of the script that something is done, and its result."""
    return result


async def noted(client: Client, done: str) -> int | None:
    handle = client.workflow(note, id=done)
    return await handle.result() if await client.list(id_prefix=done) else None


async def run_reused(client: Client) -> object:
    """Two lives of one id, each with an input and a result of its own, and a child below it."""
    results: list[int] = []
    for n in range(2):
        result = await noted(client, f"ran-{n}")
        if result is None:
            result = await client.workflow(parent_of_one, id="reused").run(n)
            await client.workflow(note, id=f"ran-{n}").run(f"ran-{n}", result)
        results.append(result)
        if n == 0 and await noted(client, f"deleted-{n}") is None:
            with suppress(NotFound):
                await client.get("reused").delete(force=True, reason=f"life {n} is over")
            await client.workflow(note, id=f"deleted-{n}").run(f"deleted-{n}", n)
    left = [found.id for found in await client.list(id_prefix="reused", limit=None)]
    return results, len(left)


@app.workflow
async def parent_of_one(n: int) -> int:
    return await workflow.child(leaf, id="child-of-reused")(n + 20)


def check_reused(result: object) -> None:
    assert result == ([40, 42], 1), result


reuse_scenario = Scenario(app, run_reused, check=check_reused, ordered=False)
