"""Random workflow programs: trees of everything that asyncio, anyio and Perdure offer, built from a seed.

A program is plain data, so it is the input of one workflow, `tree`, which walks it. Each kind of node is one small
coroutine.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import anyio
import anyio.lowlevel

from perdure import ActivityError, App, ChildError, RetryPolicy, workflow
from perdure.errors import UsageError

app = App("random")

Node = list[Any]
"""A program: [kind, path, n, children]. `path` is unique in the tree, `n` a small number that the kind interprets."""


@app.activity
async def act(path: str) -> str:
    return path.upper()


@app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=0.5))
def retried(path: str) -> str:
    return path.upper()


@app.workflow
async def leaf(path: str) -> str:
    return await act(path)


Channel = workflow.Channel[str]
letters = Channel("letters")
color = contextvars.ContextVar("color", default="none")


class Env:
    """What the nodes of one run share."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.lock = asyncio.Lock()
        self.semaphore = asyncio.Semaphore(2)
        self.event = asyncio.Event()
        self.condition = asyncio.Condition()
        self.limiter = anyio.CapacityLimiter(1)
        self.anyio_event = anyio.Event()
        self.held: list[asyncio.Task[Any]] = []
        self.log: list[str] = []


Handler = Callable[[Node, Env], Awaitable[Any]]
LEAVES: dict[str, Handler] = {}
BRANCHES: dict[str, Handler] = {}


def leaf_kind(handler: Handler) -> Handler:
    LEAVES[handler.__name__] = handler
    return handler


def branch_kind(handler: Handler) -> Handler:
    BRANCHES[handler.__name__] = handler
    return handler


def build(
    random: Random, depth: int, leaves: list[str], branches: list[str], path: str = "r"
) -> Node:
    """A random program of at most `depth` levels below this one."""
    n = random.randrange(2, 4)
    if depth == 0 or random.random() < 0.25:
        return [random.choice(leaves), path, n, []]
    children = [build(random, depth - 1, leaves, branches, f"{path}{i}") for i in range(n)]
    return [random.choice(branches), path, n, children]


async def walk(node: Node, env: Env) -> Any:
    kind, path, n, _ = node
    handler = LEAVES.get(kind) or BRANCHES[kind]
    try:
        return await handler(node, env)
    except (ActivityError, ChildError) as error:
        env.log.append(type(error).__name__)
        return await act(f"{path}.handled")
    finally:
        if n == 2 and len(path) % 3 == 0:
            await act(f"{path}.finally")


@app.workflow
async def tree(program: Node, generations: int = 0) -> list[str]:
    """Walk a program beside a second branch, so that something always interleaves with it."""
    env = Env()
    await asyncio.gather(
        walk(program, env), walk(["sleeps", "z", 2, []], env), return_exceptions=True
    )
    if generations:
        workflow.continue_as_new(tree, program, generations - 1)
    return env.log


# ---------------------------------------------------------------- leaves: what takes one or a few steps


@leaf_kind
async def one(node: Node, env: Env) -> Any:
    env.log.append(await act(node[1]))


@leaf_kind
async def chain(node: Node, env: Env) -> Any:
    for i in range(node[2]):
        await act(f"{node[1]}.{i}")


@leaf_kind
async def retrying(node: Node, env: Env) -> Any:
    env.log.append(await retried(node[1]))


@leaf_kind
async def sleeps(node: Node, env: Env) -> Any:
    await asyncio.sleep(node[2])
    await workflow.sleep(0.5, name=node[1])


@leaf_kind
async def yields(node: Node, env: Env) -> Any:
    for _ in range(node[2]):
        await asyncio.sleep(0)
    await anyio.lowlevel.checkpoint()
    await act(node[1])


@leaf_kind
async def queue(node: Node, env: Env) -> Any:
    env.queue.put_nowait(node[1])
    await act(node[1])
    env.log.append(await env.queue.get())


@leaf_kind
async def lock(node: Node, env: Env) -> Any:
    async with env.lock:
        await act(node[1])


@leaf_kind
async def semaphore(node: Node, env: Env) -> Any:
    async with env.semaphore:
        await act(node[1])


@leaf_kind
async def limiter(node: Node, env: Env) -> Any:
    async with env.limiter:
        await act(node[1])


@leaf_kind
async def event(node: Node, env: Env) -> Any:
    if len(node[1]) % 2:
        env.event.set()
        env.anyio_event.set()
    else:
        try:
            async with asyncio.timeout(node[2]):
                await asyncio.gather(env.event.wait(), env.anyio_event.wait())
        except TimeoutError:
            env.event = asyncio.Event()
    await act(node[1])


@leaf_kind
async def condition(node: Node, env: Env) -> Any:
    async with env.condition:
        if node[2] == 2:
            env.condition.notify_all()
        else:
            try:
                await asyncio.wait_for(env.condition.wait(), 1)
            except TimeoutError:
                await act(node[1])


@leaf_kind
async def child(node: Node, env: Env) -> Any:
    if node[2] == 2:
        env.log.append(await leaf(node[1]))
    else:
        env.log.append(await workflow.child(leaf, parent_close="terminate")(node[1]))


@leaf_kind
async def detached(node: Node, env: Env) -> Any:
    env.log.append(leaf.detach(node[1]))
    env.log.append(act.detach(node[1]))


@leaf_kind
async def receiving(node: Node, env: Env) -> Any:
    try:
        async with asyncio.timeout(3):
            env.log.append(await letters.receive())
    except TimeoutError:
        env.log.append("no letter")


@leaf_kind
async def raised(node: Node, env: Env) -> Any:
    with anyio.move_on_after(2):
        env.log.append(await workflow.wait_event("bell", str))


@leaf_kind
async def sending(node: Node, env: Env) -> Any:
    workflow.send("elsewhere", letters, node[1])
    workflow.cancel("elsewhere", node[1])


@leaf_kind
async def variables(node: Node, env: Env) -> Any:
    kv = workflow.kv
    count = kv.get("count", int, 0) or 0
    kv.set("count", count + 1)
    kv.set(node[1][:2], await act(node[1]))
    if node[2] == 3:
        kv.delete(node[1][:2])
    workflow.set_status([node[1], count, kv.keys()])
    env.log.append(workflow.value("v", node[1]))


@leaf_kind
async def refusals(node: Node, env: Env) -> Any:
    """Ask for too much and go on with the answer."""
    kind = len(node[1]) % 4
    try:
        if kind == 0:
            workflow.kv.set(f"{node[1]}.{node[2]}", "x" * 40 * node[2])
        elif kind == 1:
            workflow.value(node[1], "y" * 200 * node[2])
        elif kind == 2:
            workflow.set_status("z" * 60 * node[2])
        else:
            await act("w" * 200 * node[2])
    except UsageError as error:
        env.log.append(f"{type(error).__name__}: {error}")
        await act(f"{node[1]}.refused")


@leaf_kind
async def too_far(node: Node, env: Env) -> Any:
    try:
        async with asyncio.timeout(1e300 if node[2] == 2 else 9e11):
            await act(node[1])
    except UsageError as error:
        env.log.append(str(error))


@leaf_kind
async def lengths(node: Node, env: Env) -> Any:
    """The length of the history decides."""
    counter = workflow.variable(f"n{node[1]}", [(workflow.info().history_events, node[1])])
    await act(f"{node[1]}.{counter.get()}")
    counter.update(lambda seen: [*seen, (workflow.info().history_events, "later")])
    env.log.append(repr(counter.get()))


@leaf_kind
async def chance(node: Node, env: Env) -> Any:
    env.log.append(f"{workflow.random().random()} {workflow.uuid4()} {workflow.now().isoformat()}")
    if workflow.random().random() < 0.5:
        await act(node[1])


@leaf_kind
async def step(node: Node, env: Env) -> Any:
    env.log.append(str(await workflow.checkpoint("step", lambda: node[1])))


@leaf_kind
async def given_up(node: Node, env: Env) -> Any:
    call = asyncio.ensure_future(act(node[1]))
    await asyncio.sleep(0)
    call.cancel()
    _ = asyncio.ensure_future(act(f"{node[1]}.dropped"))


@leaf_kind
async def set_of_calls(node: Node, env: Env) -> Any:
    calls = {asyncio.ensure_future(act(f"{node[1]}.{i}")) for i in range(4)}
    await asyncio.sleep(1)
    for call in calls:
        call.cancel()


@leaf_kind
async def later(node: Node, env: Env) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_later(node[2], lambda: done.done() or done.set_result(node[1]))
    loop.call_soon(env.log.append, node[1])
    forgotten = loop.call_later(1, env.log.append, "never")
    env.log.append(await done if node[2] == 3 else "soon")
    forgotten.cancel()


@leaf_kind
async def coloured(node: Node, env: Env) -> Any:
    before = color.get()
    color.set(node[1])
    await act(node[1])
    env.log.append(f"{before}>{color.get()}")


# ---------------------------------------------------------------- branches: what runs other nodes


@branch_kind
async def sequence(node: Node, env: Env) -> Any:
    for inner in node[3]:
        await walk(inner, env)


@branch_kind
async def gather(node: Node, env: Env) -> Any:
    await asyncio.gather(*[walk(c, env) for c in node[3]], return_exceptions=node[2] == 2)


@branch_kind
async def group(node: Node, env: Env) -> Any:
    async with asyncio.TaskGroup() as tasks:
        for inner in node[3]:
            tasks.create_task(walk(inner, env))


@branch_kind
async def failing_group(node: Node, env: Env) -> Any:
    try:
        async with asyncio.TaskGroup() as tasks:
            for inner in node[3]:
                tasks.create_task(walk(inner, env))
            await act(f"{node[1]}.f")
            raise ValueError(node[1])
    except* ValueError:
        await act(f"{node[1]}.caught")


@branch_kind
async def first(node: Node, env: Env) -> Any:
    when = asyncio.FIRST_COMPLETED if node[2] == 2 else asyncio.FIRST_EXCEPTION
    tasks = [asyncio.create_task(walk(c, env)) for c in node[3]]
    _, pending = await asyncio.wait(tasks, return_when=when, timeout=30)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


@branch_kind
async def as_completed(node: Node, env: Env) -> Any:
    for next_done in asyncio.as_completed([walk(c, env) for c in node[3]]):
        await next_done
        await act(f"{node[1]}.done")


@branch_kind
async def timeout(node: Node, env: Env) -> Any:
    try:
        async with asyncio.timeout(node[2]):
            await sequence(node, env)
    except TimeoutError:
        await act(f"{node[1]}.late")


@branch_kind
async def wait_for(node: Node, env: Env) -> Any:
    for inner in node[3]:
        try:
            await asyncio.wait_for(walk(inner, env), node[2])
        except TimeoutError:
            await act(f"{node[1]}.late")


@branch_kind
async def shielded(node: Node, env: Env) -> Any:
    for inner in node[3]:
        try:
            await asyncio.wait_for(asyncio.shield(walk(inner, env)), node[2])
        except TimeoutError:
            env.log.append("left it running")


@branch_kind
async def select(node: Node, env: Env) -> Any:
    index, _ = await workflow.select(*[walk(c, env) for c in node[3]])
    env.log.append(f"{node[1]}:{index}")


@branch_kind
async def join(node: Node, env: Env) -> Any:
    outcomes = await workflow.join(
        *[walk(c, env) for c in node[3]], order="history" if node[2] == 2 else "argument"
    )
    env.log.append(f"{node[1]}:{[type(o).__name__ for o in outcomes]}")


@branch_kind
async def set_of_tasks(node: Node, env: Env) -> Any:
    tasks = {asyncio.create_task(walk(c, env)) for c in node[3]}
    await act(f"{node[1]}.x")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@branch_kind
async def background(node: Node, env: Env) -> Any:
    env.held += [asyncio.create_task(walk(c, env)) for c in node[3]]
    await act(f"{node[1]}.x")


@branch_kind
async def callbacks(node: Node, env: Env) -> Any:
    for inner in node[3]:
        task = asyncio.create_task(walk(inner, env))
        task.add_done_callback(lambda t: env.log.append(f"{t.get_name()} {t.cancelled()}"))
        env.held.append(task)
    await asyncio.wait(env.held, timeout=2)


@branch_kind
async def generator(node: Node, env: Env) -> Any:
    async def each() -> AsyncIterator[str]:
        try:
            for inner in node[3]:
                await walk(inner, env)
                yield inner[1]
        finally:
            await act(f"{node[1]}.closed")

    async for path in each():
        env.log.append(path)
        if node[2] == 2:
            break


@branch_kind
async def anyio_group(node: Node, env: Env) -> Any:
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(node[2]):
            for inner in node[3]:
                tasks.start_soon(walk, inner, env)
            await anyio.sleep(node[2] + 1)
        await act(f"{node[1]}.any")
        tasks.cancel_scope.cancel()


@branch_kind
async def anyio_scope(node: Node, env: Env) -> Any:
    for inner in node[3]:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(1, scope.cancel)
            await walk(inner, env)
        with anyio.move_on_after(3, shield=True):
            await act(f"{node[1]}.shielded")


@branch_kind
async def anyio_stream(node: Node, env: Env) -> Any:
    writer, reader = anyio.create_memory_object_stream[str](1)

    async def produce() -> None:
        async with writer:
            for inner in node[3]:
                await walk(inner, env)
                await writer.send(inner[1])

    async with anyio.create_task_group() as tasks, reader:
        tasks.start_soon(produce)
        async for path in reader:
            env.log.append(path)


GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "everything": (list(LEAVES), list(BRANCHES)),
    "cancelling": (
        ["one", "chain", "sleeps", "lock", "queue", "child", "retrying"],
        [
            "first",
            "timeout",
            "wait_for",
            "select",
            "failing_group",
            "set_of_tasks",
            "shielded",
            "gather",
        ],
    ),
    "anyio": (
        ["one", "sleeps", "yields", "limiter", "raised", "event"],
        ["anyio_group", "anyio_scope", "anyio_stream", "generator", "group", "timeout"],
    ),
}
"""Programs of everything, and programs that dwell on what is most delicate."""


def program(seed: int) -> Node:
    """The program of a seed."""
    random = Random(seed)
    leaves, branches = GROUPS[random.choice(list(GROUPS))]
    return build(random, random.choice([2, 3]), leaves, branches)
