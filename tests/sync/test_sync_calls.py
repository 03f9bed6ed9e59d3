"""What blocks does what awaits does: results, errors, timeouts, iterators, threads, and clear refusals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blocking_shop import add, answer, app, ask, fail

from perdure import App, Client, Interceptor, NotFound, Timeout, WorkflowFailed
from perdure.errors import StoreLocked, StoreUnavailable, UsageError
from perdure.interceptor import Outgoing
from perdure.sync import SyncNode
from perdure.sync.portal import Portal, _outlast  # pyright: ignore[reportPrivateUsage]

DEADLINE_S = 20


@pytest.fixture
def node() -> Iterator[SyncNode]:
    with app.node("memory://").sync() as node:
        yield node


def threads() -> list[str]:
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith("perdure node")
    ]


def test_a_workflow_from_start_to_end(node: SyncNode) -> None:
    handle = node.client.workflow(add, id="add-1")
    assert handle.run(3, m=4) == 10
    assert (handle.id, handle.status(), handle.result()) == ("add-1", "completed", 10)
    assert node.client.get("add-1").result() == 10
    assert [found.id for found in node.client.list(type="add")] == ["add-1"]
    assert node.client.page(size=1).items[0].id == "add-1"
    assert node.client.counts()["completed"] == 1
    assert handle.tree().instance.id == "add-1"
    assert (handle.executions(), handle.prune(keep_last=1)) == ([1], [])
    assert node.client.delete(type="add").instances == 1
    assert (node.name, node.app, node.limits) == (node._node.name, app, node.options.limits)
    assert node.metrics.started == 1


def test_messages_status_and_values(node: SyncNode) -> None:
    handle = node.client.workflow(ask, id="ask-1")
    handle.start("Ada")
    assert handle.kv_wait("who", str, timeout=DEADLINE_S) == "Ada"
    assert handle.custom_status(dict[str, str])[0] == {"asked": "Ada"}
    assert (handle.kv(), handle.kv_get("who", str)) == ({"who": "Ada"}, "Ada")
    handle.pause("lunch")
    assert handle.describe().paused
    handle.resume()
    handle.send("answer", "yes")
    assert handle.wait(timeout=DEADLINE_S).status == "completed"
    assert handle.result() == "Ada: yes"
    handle.cancel()
    handle.terminate()


def test_a_history_is_read_as_it_is_asked_for(node: SyncNode) -> None:
    handle = node.client.workflow(add, id="add-1")
    handle.run(3)
    events = handle.iterate_history()
    assert next(events).number == 1
    assert [event.number for event in events] == [event.number for event in handle.history()][1:]
    abandoned = handle.iterate_history()
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    with pytest.raises(NotFound, match="nobody"):
        next(node.client.get("nobody").iterate_history())


def test_errors_keep_their_type_and_show_where(node: SyncNode) -> None:
    with pytest.raises(WorkflowFailed, match="as planned") as failed:
        node.client.workflow(fail, id="fail-1").run()
    assert failed.value.failure.type == "ValueError"
    with pytest.raises(NotFound) as missing:
        node.client.get("nobody").describe()
    shown = "".join(traceback.format_exception(missing.value))
    assert f'File "{__file__}"' in shown
    assert "in describe" in shown
    assert "in find_unit" in shown


def test_a_timeout_is_a_timeout(node: SyncNode) -> None:
    handle = node.client.workflow(ask, id="ask-1")
    handle.start("Ada")
    with pytest.raises(Timeout, match=r"'ask-1' has not ended within 0\.01 s"):
        handle.result(timeout=0.01)
    handle.send(answer, "now")
    assert handle.result(timeout=DEADLINE_S) == "Ada: now"


def test_many_threads_share_a_portal(node: SyncNode) -> None:
    def work(n: int) -> int:
        return node.client.workflow(add, id=f"add-{n}").run(n)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [2 * n + 1 for n in range(40)]
    assert len(threads()) == 1


async def test_a_thread_beside_a_running_loop_may_block() -> None:
    def work() -> int:
        with app.node("memory://").sync() as node:
            return node.client.workflow(add, id="add-1").run(3)

    assert await asyncio.to_thread(work) == 7


async def test_where_a_loop_runs_nothing_may_block() -> None:
    with pytest.raises(
        UsageError,
        match=r"would block the event loop that runs in this thread: await the asynchronous",
    ):
        app.node("memory://").sync().start()
    holder = app.node("memory://").sync()
    await asyncio.to_thread(holder.start)
    try:
        with pytest.raises(UsageError, match="would block the event loop"):
            holder.client.counts()
    finally:
        await asyncio.to_thread(holder.stop)
    assert threads() == []


def test_code_on_the_nodes_own_loop_is_refused_instead_of_waiting_for_itself() -> None:
    own = App("own")
    nodes: list[SyncNode] = []

    @own.activity
    async def asks_itself() -> str:
        refused: list[str] = []
        for call in (nodes[0].client.counts, nodes[0].stop):
            try:
                call()
            except UsageError as error:
                refused.append(str(error))
        return "; ".join(refused)

    @own.activity
    def asks_from_a_thread() -> int:
        return nodes[0].client.counts()["running"]

    @own.workflow
    async def asking() -> str:
        return f"{await asks_itself()} {await asks_from_a_thread()}"

    with own.node("memory://").sync() as node:
        nodes.append(node)
        text = node.client.workflow(asking, id="a").run()
    assert "would block the event loop" in text
    assert "cannot be closed by code that runs on its own loop" in text
    assert text.endswith(" 1")


def test_before_it_is_opened_and_after_it_was_closed() -> None:
    node = app.node("memory://").sync()
    node.stop()
    with pytest.raises(UsageError, match=r"node '.*' is not open: use it inside of `with ... as`"):
        node.client.counts()
    with node:
        client = node.client
        with pytest.raises(UsageError, match="is open already"):
            node.start()
        with pytest.raises(UsageError, match="is open already"), client:
            raise AssertionError
        assert client.counts()["running"] == 0
    for call in (client.counts, lambda: next(client.get("x").iterate_history())):
        with pytest.raises(UsageError, match="has been closed"):
            call()
    node.stop(0)
    assert threads() == []


def test_it_can_be_opened_again(tmp_path: Path) -> None:
    node = app.node(f"sqlite:///{tmp_path / 'shop.db'}").sync()
    with node:
        assert node.client.workflow(add, id="add-1").run(3) == 7
    with node:
        assert node.client.get("add-1").result() == 7
        assert node.residents == 0


def test_start_and_stop_are_there_for_code_without_a_block() -> None:
    node = app.node("memory://").sync()
    node.start()
    assert node.client.workflow(add, id="add-1").run(3) == 7
    node.stop(grace=1)
    node.stop()
    assert threads() == []


def test_a_start_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with app.node(url).sync():
        other = app.node(url).sync()
        with pytest.raises(StoreLocked):
            other.start()
        assert len(threads()) == 1
        with pytest.raises(UsageError, match=r"is not open|has been closed"):
            other.client.counts()


def test_a_loop_that_cannot_be_made_is_an_error_of_the_caller() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no more files")

    with pytest.raises(OSError, match="no more files"):
        app.node("memory://").sync(loop_factory=broken).start()
    assert threads() == []


def test_the_loop_can_be_chosen() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    with app.node("memory://").sync(loop_factory=factory) as node:
        assert node.client.workflow(add, id="add-1").run(3) == 7
    assert [loop.is_closed() for loop in made] == [True]


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"), app.node("memory://").sync():
        raise LookupError("mine")
    assert threads() == []


@pytest.mark.parametrize("alone", [False, True], ids=["node", "client alone"])
def test_who_waits_when_it_is_closed_is_told(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    told: Future[str] = Future()
    waits = threading.Event()
    wait = Portal._wait

    def noted(portal: Portal, future: Future[Any]) -> Any:
        if threading.current_thread() is waiter:
            waits.set()
        return wait(portal, future)

    def work() -> None:
        try:
            opened[0].get("ask-1").result()
        except StoreUnavailable as error:
            told.set_result(str(error))

    waiter = threading.Thread(target=work)
    monkeypatch.setattr(Portal, "_wait", noted)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(app.node(url).sync())
        node.client.workflow(ask, id="ask-1").start("Ada")
        opened = [node.client] if not alone else []
        with Client.open(url).sync() as client:
            opened.append(client)
            waiter.start()
            assert waits.wait(DEADLINE_S)
            if not alone:
                node.stop()
    text = told.result(DEADLINE_S)
    assert (
        "closed" if alone else "the node has stopped; the instance goes on when a node runs again"
    ) in text
    waiter.join(DEADLINE_S)


def test_an_interrupted_start_puts_everything_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(portal: Portal, future: Future[Any]) -> Any:
        future.cancel()
        raise KeyboardInterrupt

    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with monkeypatch.context() as patch:
        patch.setattr(Portal, "_wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            app.node(url).sync().start()
    assert threads() == []
    with app.node(url).sync() as node:  # the file is free
        assert node.client.workflow(add, id="add-1").run(3) == 7


def test_a_call_that_the_end_of_the_loop_cuts_off_is_told() -> None:
    began, told = threading.Event(), Future[BaseException]()
    portal = Portal("the portal")

    async def nothing() -> None:
        return None

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    def work() -> None:
        try:
            portal.call(for_ever)
        except StoreUnavailable as error:
            told.set_result(error)

    portal.open(nothing, nothing)
    waiter = threading.Thread(target=work)
    waiter.start()
    assert began.wait(DEADLINE_S)
    portal.close()
    error = told.result(DEADLINE_S)
    assert (
        str(error)
        == "the portal was closed while this call waited; what was started goes on when a node runs"
    )
    assert isinstance(error, StoreUnavailable)
    assert error.outcome == "unknown"
    waiter.join(DEADLINE_S)


def test_a_second_ctrl_c_is_passed_on_at_once() -> None:
    class Interrupted(Future[None]):
        waits = 0

        def result(self, timeout: float | None = None) -> None:
            self.waits += 1
            raise KeyboardInterrupt

    future = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _outlast(future)
    assert future.waits == 2


def test_context_variables_of_the_caller_are_those_of_the_call() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    class Notes(Interceptor):
        async def send(self, call: Outgoing, proceed: Any) -> object:
            seen.append(who.get())
            return await proceed(call)

    who.set("Ada")
    with app.node("memory://", interceptors=[Notes()]).sync() as node:
        node.client.workflow(add, id="add-1").start(3)
        thread = threading.Thread(target=lambda: node.client.get("add-1").cancel())
        thread.start()
        thread.join(DEADLINE_S)
    assert seen == ["Ada", "nobody"]


def test_a_client_on_a_store_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with app.node(url).sync() as node, Client.open(url).sync() as client:
        assert client.workflow("add", id="add-1").run(3, 4) == 10
        assert node.client.workflow(add, id="add-1").result() == 10
        assert client.list(created_before=datetime.now(UTC), limit=None)[0].id == "add-1"
    with contextlib.ExitStack() as stack:
        with pytest.raises(UsageError, match="the client is not open"):
            Client.open(url).sync().counts()
        stack.enter_context(Client.open(url).sync())


@pytest.mark.parametrize("late", [False, True], ids=["before the loop knows", "after"])
def test_ctrl_c_while_a_call_is_handed_over_leaves_nothing_behind(late: bool) -> None:
    """Python would complain of a coroutine that nobody has awaited, which is an error in these tests."""
    interrupts = threading.Event()

    class Interrupted(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
            if not interrupts.is_set():
                return super().call_soon_threadsafe(*args, **kwargs)
            interrupts.clear()
            if late:
                super().call_soon_threadsafe(*args, **kwargs)
            raise KeyboardInterrupt

    begun: list[str] = []
    cancelled: Future[bool] = Future()

    async def nothing() -> None:
        return None

    async def for_ever() -> None:
        begun.append("call")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set_result(True)

    portal = Portal("the portal", Interrupted)
    portal.open(nothing, nothing)
    interrupts.set()
    with pytest.raises(KeyboardInterrupt):
        portal.call(for_ever)
    gc.collect()  # what was left behind is found now
    portal.call(nothing)
    # The loop may have begun the call before its caller left.
    assert not begun or cancelled.result(DEADLINE_S)
    portal.close()
