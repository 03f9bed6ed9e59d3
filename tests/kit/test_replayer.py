"""Exported histories are replayed against code: what fits, what differs and where, and files that are none."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit_shop import approved, make_app

from perdure import App, Limits, Node, NodeOptions, testing, workflow
from perdure.errors import LimitExceeded, NotFound, StoreError, UsageError
from perdure.testing import History, ReplayMismatch, VirtualNode, export_history, replay, replay_all


def countdown(app: App, *, notes: bool = False, step: int = 1) -> Any:
    """A workflow of several executions; its KV store tells how often each came, and what it does depends on it."""
    note = app.activity(name="tell")(_tell)

    @app.workflow
    async def countdown(left: int) -> int:
        round_ = workflow.kv.get("round", int, 0) or 0
        workflow.kv.set("round", round_ + step)
        if round_ % 2:
            await note(f"odd {round_}")
        if notes:
            await note("new")
        if left:
            workflow.continue_as_new(countdown, left - 1)
        await approved.receive()
        return round_

    return countdown


async def _tell(text: str) -> None:
    return None


@pytest.fixture
async def recorded(tmp_path: Path) -> Path:
    """A folder with histories of the shop."""
    app = make_app()
    count = countdown(app)
    async with testing.node(app) as node:
        await node.client.workflow("approval", id="a").run()
        await node.client.workflow("pay", id="p").run("4242")
        await node.client.workflow("noted", id="n").run("hello", 5)
        await node.client.workflow("patient", id="open").start()
        await node.client.workflow(count, id="c").start(4)
        cancelled = node.client.workflow("month", id="m")
        await cancelled.start()
        await cancelled.cancel("no")
        terminated = node.client.workflow("month", id="t")
        await terminated.start()
        await terminated.terminate("no")
        await node.clock.sleep(0)
        for name in ("a", "p", "n", "open", "c", "m", "t"):
            (await export_history(node.store, name, every_execution=True)).write(
                tmp_path / f"{name}.json"
            )
    return tmp_path


def fresh() -> App:
    """The same code, and none of the objects."""
    app = make_app()
    countdown(app)
    return app


# ---------------------------------------------------------------- what fits


KEYS = 2 * Limits().kv_keys
"""More than an instance has by default."""


def keeps(app: App, first: int, later: int = 0) -> Any:
    async def keep_more() -> None:
        for number in range(later):
            workflow.kv.set(f"later-{number}", number)

    @app.workflow
    async def keeps() -> int:
        for number in range(first):
            try:
                workflow.kv.set(f"first-{number}", number)
            except LimitExceeded:
                return number
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(approved.receive())
            tasks.create_task(keep_more())
        return first

    return keeps


@pytest.mark.parametrize(
    ("kv_keys", "status", "goes_on"), [(1, "completed", 0), (9 * KEYS, "running", KEYS)]
)
async def test_only_the_limits_that_were_recorded_are_repeated(
    kv_keys: int, status: str, goes_on: int, tmp_path: Path
) -> None:
    """A node with other limits may have recorded it, and what the code does beyond it meets none."""
    options = NodeOptions(limits=Limits(kv_keys=kv_keys))
    recorder = App("keeper")
    workflow_of_it = keeps(recorder, KEYS)
    async with Node(recorder, "memory://", options=options) as node:
        handle = node.client.workflow(workflow_of_it, id="k")
        await handle.start()
        assert await handle.status() == status
        (await export_history(node.store, "k")).write(tmp_path / "k.json")
    reader = App("keeper")
    keeps(reader, KEYS, later=KEYS)
    assert len(replay(reader, tmp_path / "k.json").goes_on) == goes_on


@pytest.mark.parametrize("name", ["a", "p", "n", "open", "c", "m", "t"])
def test_the_code_that_recorded_a_history_fits_it(recorded: Path, name: str) -> None:
    history = History.read(recorded / f"{name}.json")
    replayed = replay(fresh(), recorded / f"{name}.json")
    assert (replayed.id, replayed.status) == (name, history.status)
    assert replayed.events == history.count > 1
    assert replayed.executions == len(history.executions) == (5 if name == "c" else 1)
    assert (replayed.goes_on, replayed.skipped) == ((), ())


def test_a_history_is_the_same_after_it_was_written_and_read(
    recorded: Path, tmp_path: Path
) -> None:
    history = History.read(recorded / "c.json")
    history.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (recorded / "c.json").read_bytes()
    assert [e.kv for e in history.executions] == [{}, None, None, None, {"round": b"\x01\x04"}]
    document = json.loads((recorded / "c.json").read_bytes())
    assert document["format"] == "perdure-history-1"
    assert document["executions"][4]["kv"] == {"round": base64.b64encode(b"\x01\x04").decode()}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


async def test_no_activity_runs_and_nothing_is_asked_of_a_store(recorded: Path) -> None:
    app = App("shop")

    @app.activity
    def note(text: str, *, loud: bool = False) -> None:
        pytest.fail("it runs")

    @app.workflow
    async def noted(text: str, seconds: float) -> None:
        await workflow.sleep(seconds)
        await workflow.checkpoint("x", lambda: pytest.fail("so does this")) if seconds > 5 else None
        await note(text)

    assert replay(app, recorded / "n.json").events == 6
    await asyncio.sleep(0)


def test_the_current_execution_is_enough_because_its_values_come_with_it(recorded: Path) -> None:
    whole = History.read(recorded / "c.json")
    last = History(whole.id, whole.workflow, whole.status, whole.executions[-1:], "last")
    assert replay(fresh(), last).executions == 1
    middle = History(whole.id, whole.workflow, whole.status, whole.executions[2:], "middle")
    replayed = replay(fresh(), middle)
    assert replayed.executions == 1
    assert [text.split(":")[0] for text in replayed.skipped] == ["execution 3", "execution 4"]


def test_what_the_code_does_beyond_an_open_history_is_told(recorded: Path) -> None:
    app = make_app()
    countdown(app)

    @app.workflow(version="2")
    async def patient() -> bool:
        got, _ = await asyncio.gather(approved.receive(), asyncio.sleep(5))
        return got

    history = History.read(recorded / "open.json")
    assert replay(app, history).goes_on == (), "version 1 is still there"
    one = json.loads((recorded / "open.json").read_bytes())
    one["executions"][0]["version"] = "2.0.0"
    (recorded / "open.json").write_text(json.dumps(one))
    assert replay(app, recorded / "open.json").goes_on == ("a timer",)


def test_it_can_be_called_where_an_event_loop_runs_and_where_none_does(recorded: Path) -> None:
    async def within() -> None:
        replay(fresh(), recorded / "a.json")

    asyncio.run(within())
    replay(fresh(), recorded / "a.json")


# ---------------------------------------------------------------- what differs


def changed(change: Callable[[App], object], *names: str) -> App:
    """The shop without some workflows, and with others in their place."""
    app = make_app()
    for name in names:
        del app._workflows[name]
    change(app)
    return app


def other_text(app: App) -> None:
    @app.workflow
    async def noted(text: str, seconds: float) -> None:
        from perdure.activity import SyncActivity

        definition = app.find_activity("note")
        assert definition is not None
        note: Any = SyncActivity(definition, definition.options)
        await workflow.sleep(seconds)
        await note(text.upper())


def no_sleep(app: App) -> None:
    @app.workflow
    async def noted(text: str, seconds: float) -> None:
        return None


def test_a_mismatch_names_file_event_line_both_sides_and_the_remedy(recorded: Path) -> None:
    with pytest.raises(ReplayMismatch) as error:
        replay(changed(other_text, "noted"), recorded / "n.json")
    text = str(error.value)
    assert text.startswith(
        f"{recorded / 'n.json'}: the history of 'n' (noted 1.0.0, execution 1) does not fit the code"
    )
    assert "at event 4, " in text
    assert "test_replayer.py:" in text
    assert "in noted" in text
    assert "the journal has a call of activity 'note'" in text
    assert "Remedy: deploy code that does the same" in text
    assert '\n  journal: ActivityScheduled(seq=2, name=note, input=["hello",false])' in text
    assert '\n  code:    ActivityScheduled(seq=2, name=note, input=["HELLO",false])' in text
    assert error.value.id == "n"


def test_code_that_ends_early_differs(recorded: Path) -> None:
    with pytest.raises(
        ReplayMismatch, match="the journal has a timer, but the code did the end of the workflow"
    ):
        replay(changed(no_sleep, "noted"), recorded / "n.json")


def test_a_difference_in_a_later_execution_is_found(recorded: Path) -> None:
    app = make_app()
    countdown(app, step=2)
    with pytest.raises(ReplayMismatch, match=r"\(countdown 1.0.0, execution 1\).*KV key 'round'"):
        replay(app, recorded / "c.json")
    whole = History.read(recorded / "c.json")
    changed_value = whole.executions[4].__class__(
        5, "1.0.0", {"round": b"\x01\x03"}, whole.executions[4].turns, whole.executions[4].events
    )
    with pytest.raises(ReplayMismatch, match="execution 5"):
        replay(fresh(), History("c", "countdown", "running", (changed_value,), "x"))


def test_a_workflow_or_a_version_that_is_gone_differs(recorded: Path) -> None:
    with pytest.raises(
        ReplayMismatch,
        match=r"has no workflow 'noted' version 1.0.0; it has .*approval.* Remedy: keep",
    ):
        replay(changed(lambda app: None, "noted"), recorded / "n.json")

    def second(app: App) -> None:
        @app.workflow(name="noted", version="2")
        async def noted(text: str, seconds: float) -> None:
            return None

    with pytest.raises(ReplayMismatch, match=r"version 1.0.0; it has version 2.0.0. Remedy"):
        replay(changed(second, "noted"), recorded / "n.json")


async def test_an_activity_that_is_gone_differs_for_what_is_open(app: App) -> None:
    async with testing.node(app) as node:
        await node.client.workflow("pay", id="p").start("4242")
        await node.clock.sleep(0)
        history = await export_history(node.store, "p")
    without = make_app()
    del without._activities["charge"]
    with pytest.raises(ReplayMismatch, match="activity 'charge' is not registered"):
        replay(without, history)


def test_code_that_waits_for_nothing_differs(recorded: Path) -> None:
    def stuck(app: App) -> None:
        @app.workflow
        async def patient() -> bool:
            await asyncio.Event().wait()
            return await approved.receive()

    with pytest.raises(ReplayMismatch, match="but the code did nothing"):
        replay(changed(stuck, "patient"), recorded / "open.json")
    bare = json.loads((recorded / "open.json").read_bytes())
    from perdure.kernel.data.events import decode_events, encode_events

    events = decode_events(base64.b64decode(bare["executions"][0]["turns"][0]))
    bare["executions"][0]["turns"] = [base64.b64encode(encode_events(events[:1])).decode()]
    (recorded / "open.json").write_text(json.dumps(bare))
    with pytest.raises(ReplayMismatch, match=r"waits at .* for something that nothing can bring"):
        replay(changed(stuck, "patient"), recorded / "open.json")


def test_code_that_never_rests_differs(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.kernel.loop.loop.CALLBACKS_MAX", 1_000)

    def busy(app: App) -> None:
        @app.workflow
        async def patient() -> bool:
            while True:
                await asyncio.sleep(0)

    with pytest.raises(ReplayMismatch, match="without becoming idle"):
        replay(changed(busy, "patient"), recorded / "open.json")


# ---------------------------------------------------------------- a whole store


async def test_what_is_open_in_a_store_is_replayed_beside_its_node(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    app = fresh()
    async with Node(app, url) as node:
        await node.client.workflow("noted", id="done").run("x", 0)
        await node.client.workflow("patient", id="one").start()
        await node.client.workflow("patient", id="two").start()
        await node.client.workflow("countdown", id="c").start(2)
        await node.client.workflow("month", id="later", delay=3_600).start()
        for name in ("one", "two", "c"):
            while (await node.client.get(name).describe()).reason != "message approved":
                await asyncio.sleep(0)
        assert {r.id for r in await replay_all(fresh(), url)} == {"one", "two", "c"}
        assert [r.id for r in await replay_all(fresh(), node.store, type="countdown")] == ["c"]
        assert [r.id for r in await replay_all(fresh(), url, status="completed")] == ["done"]

        def other(app: App) -> None:
            countdown(app, notes=True)

            @app.workflow
            async def patient() -> bool:
                await workflow.sleep(1)
                return await approved.receive()

        with pytest.raises(ReplayMismatch) as error:
            await replay_all(changed(other, "patient"), url)
    assert str(error.value).startswith("3 of 3 histories do not fit the code:\n- the history of ")
    assert sorted(m.id for m in error.value.mismatches) == ["c", "one", "two"]
    assert all("at event 2, " in str(m) or "at event 3, " in str(m) for m in error.value.mismatches)


async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.db"):
        await replay_all(make_app(), f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


async def test_what_has_no_history_is_not_exported(node: VirtualNode) -> None:
    with pytest.raises(NotFound, match="no instance has the id 'x'"):
        await export_history(node.store, "x")
    await node.client.workflow("month", id="later", delay=60).start()
    with pytest.raises(NotFound, match="'later' is pending and has no history yet"):
        await export_history(node.store, "later")


# ---------------------------------------------------------------- files that are none


def execution(turns: bytes) -> bytes:
    head = b'{"format":"perdure-history-1","id":"x","workflow":"w","status":"s",'
    return head + b'"executions":[{"number":1,"version":"1.0.0","kv":{},"turns":[%b]}]}' % turns


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "was cut off"),
    "no JSON": (b"perdure", "is no exported history"),
    "no text": (b"\xff\xfe\x00", "is no exported history"),
    "a list": (b"[]", "is no exported history"),
    "another document": (b'{"events": []}', "does not begin with a format"),
    "another kind": (b'{"format": "temporal-history-1"}', "does not begin with a format"),
    "a newer format": (
        b'{"format": "perdure-history-9"}',
        "has format 9, and this release reads format 1: run a newer",
    ),
    "an older format": (
        b'{"format": "perdure-history-0"}',
        "has format 0, and this release reads format 1: export it",
    ),
    "no fields": (
        b'{"format": "perdure-history-1"}',
        "is damaged: Object missing required field `id`",
    ),
    "no execution": (
        b'{"format":"perdure-history-1","id":"x","workflow":"w","status":"failed","executions":[]}',
        "it has no execution",
    ),
    "no base64": (execution(b'"??"'), "is damaged: Invalid base64"),
    "no events": (execution(b'"AAAA"'), "turn 1 of execution 1 cannot be decoded"),
    "no turn": (execution(b""), "execution 1 does not begin with its start"),
    "no id": (
        b'{"format":"perdure-history-1","id":"","workflow":"w","status":"s","executions":[]}',
        "an id must not be empty",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_history_is_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    content, why = BAD[kind]
    file = tmp_path / "h.json"
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        replay(make_app(), file)
    text = str(error.value)
    assert str(file) in text
    assert why in text
    assert "`perdure history ID --export FILE`" in text


def test_a_file_that_was_cut_off_anywhere_is_no_history(recorded: Path) -> None:
    whole = (recorded / "n.json").read_bytes().rstrip()
    file = recorded / "cut.json"
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.json"):
            replay(fresh(), file)


def test_a_start_of_another_execution_is_no_history(recorded: Path) -> None:
    document = json.loads((recorded / "c.json").read_bytes())
    document["executions"] = document["executions"][1:]
    document["executions"][0]["number"] = 1
    (recorded / "c.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="execution 1 does not begin with its start"):
        History.read(recorded / "c.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the history .*none\.json: No such file"):
        replay(make_app(), tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot read the history .*: Is a directory"):
        replay(make_app(), tmp_path)


def test_only_histories_are_replaced(recorded: Path) -> None:
    history = History.read(recorded / "n.json")
    history.write(recorded / "a.json")
    assert History.read(recorded / "a.json").id == "n"
    (recorded / "shop.py").write_text("print()")
    with pytest.raises(
        UsageError, match=r"shop\.py exists, and is not replaced, because it is no history"
    ):
        history.write(recorded / "shop.py")
    assert (recorded / "shop.py").read_text() == "print()"
    with pytest.raises(
        UsageError, match=r"cannot write .*: No such file or directory; give a file in a folder"
    ):
        history.write(recorded / "no" / "n.json")


def test_something_else_than_an_app_is_refused(recorded: Path) -> None:
    with pytest.raises(UsageError, match="the app of a replay must be an App"):
        replay("shop", recorded / "n.json")  # type: ignore[arg-type]
