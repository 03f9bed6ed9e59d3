"""A workflow that leaves memory in the middle: no line of it runs, nothing is recorded, its memory is free at once."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from drive import Drive
from hostile import HOSTILE, LOG
from scene import act, started

from perdure import App
from perdure.kernel.data.message import Terminate
from perdure.kernel.loop import disposal
from perdure.kernel.loop.disposal import CAN_MARK, dispose
from perdure.kernel.loop.entered import Entered

Shape = Callable[[], Coroutine[Any, Any, None]]
shapes = pytest.mark.parametrize("shape", HOSTILE, ids=lambda shape: shape.__name__)


KNOTTED = {"in_groups", "in_anyio", "in_wait_for", "in_a_manager_of_anyio"}
if sys.version_info >= (3, 14):
    KNOTTED.add("with_callbacks")  # the callback of `asyncio.wait` knows the task that waits
"""Frames with objects of asyncio and anyio that refer to their task, which holds the frame: the collector's work."""


class Witness:
    """Lives in a frame of the workflow."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """The collector must not do what disposal should; and it must find nothing afterwards."""
    gc.collect()
    gc.disable()
    LOG.clear()
    yield
    gc.enable()
    gc.collect()
    assert LOG == []


def waiting(shape: Shape) -> tuple[Drive, weakref.ref[Witness]]:
    """A unit that waits in the shape's first wait, and a witness that lives as long as its frames."""
    found: list[weakref.ref[Witness]] = []

    async def watched() -> None:
        witness = Witness()
        found.append(weakref.ref(witness))
        await shape()

    drive = started(watched)
    assert LOG == []
    assert found[0]() is not None
    return drive, found[0]


def test_frames_can_be_dropped_on_this_interpreter() -> None:
    """CPython with the GIL; elsewhere the tests below show that the other way is safe, too."""
    expected = (
        sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
    )
    assert expected == CAN_MARK


@pytest.mark.parametrize("answer", [True, False])
def test_an_interpreter_that_keeps_the_mark_elsewhere_is_found_out(
    monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    monkeypatch.setattr(gc, "is_finalized", lambda _: answer)
    assert not disposal._can_mark()


def test_an_interpreter_that_does_not_heed_the_mark_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(gc, "is_finalized", lambda _: next(answers))
    monkeypatch.setattr(disposal, "_mark", lambda _: None)
    assert not disposal._can_mark()


@pytest.mark.skipif(
    not CAN_MARK,
    reason="this interpreter cannot drop frames silently: the fallback is tested below",
)
@shapes
def test_no_line_runs_and_memory_is_free(shape: Shape) -> None:
    drive, witness = waiting(shape)
    run = drive.unit.run
    assert run is not None
    loop = weakref.ref(run.loop)
    dispose(run.loop)
    assert run.events == []
    assert run.loop.ready == []
    del run
    drive.unit.close_memory()
    if shape.__name__ in KNOTTED:
        gc.collect()
    assert LOG == []
    assert witness() is None, "the frames are still there"
    assert loop() is None, "the loop is still there"
    assert disposal.quarantine == []


@pytest.mark.skipif(not CAN_MARK, reason="this interpreter cannot drop frames silently")
def test_calls_that_are_gathered_and_shielded_leave_nothing_for_the_collector() -> None:
    """A call that nobody ever answers must not keep the task that awaits it."""

    async def gathers() -> None:
        await asyncio.gather(act("x"), act("y"), asyncio.gather(act("z")))

    async def awaits_later() -> None:
        calls = [asyncio.ensure_future(act("x")), asyncio.create_task(act("y"))]
        for call in calls:
            await call

    for shape in (gathers, awaits_later):
        drive, witness = waiting(shape)
        drive.unit.close_memory()
        assert witness() is None, shape.__name__


def test_a_type_that_would_run_code_when_it_is_looked_up_is_not_asked() -> None:
    class Loud(type):
        def __hash__(cls) -> int:
            LOG.append("hash")
            return 1

        def __eq__(cls, other: object) -> bool:
            LOG.append("eq")
            return True

        def __instancecheck__(cls, instance: object) -> bool:
            LOG.append("instancecheck")
            return True

    class Thing(metaclass=Loud):
        @property
        def __class__(self) -> type:
            LOG.append("class")
            return list

    async def holds_it() -> None:
        thing = Thing()
        await act("x")
        del thing

    drive, witness = waiting(holds_it)
    drive.unit.close_memory()
    assert LOG == []
    assert not CAN_MARK or witness() is None


@shapes
def test_where_frames_cannot_be_dropped_nothing_is_recorded(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantine: list[object] = []
    monkeypatch.setattr(disposal, "CAN_MARK", False)
    monkeypatch.setattr(disposal, "quarantine", quarantine)
    drive, _ = waiting(shape)
    run = drive.unit.run
    assert run is not None
    commits = len(drive.script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a coroutine that it kept for later was never awaited
        dispose(run.loop)
    assert run.events == []
    assert run.take_progress() == ((), (), ())
    assert run.loop.ready == []
    assert len(drive.script) == commits
    if shape.__name__ == "swallows_everything":
        assert len(quarantine) == 1, "it resists for ever, so it is kept for ever"
    LOG.clear()
    if CAN_MARK:  # so that the next tests start clean
        for resisting in quarantine:
            for frame in disposal.chain(resisting):
                disposal._mark(frame)


@shapes
def test_another_instance_is_not_disturbed(shape: Shape) -> None:
    """The garbage collector runs in the middle of another instance's turn."""
    drive, _ = waiting(shape)
    drive.unit.close_memory()
    del drive

    async def victim() -> None:
        await act("mine")
        gc.collect()
        await act("mine too")

    other = started(victim)
    other.finish()
    names = [type(e).__name__ for e in other.events()]
    assert names == [
        "Started", "ActivityScheduled", "ActivityCompleted", "ActivityScheduled", "ActivityCompleted", "Completed",
    ]  # fmt: skip
    assert LOG == []


@shapes
def test_it_goes_on_after_a_reload(shape: Shape) -> None:
    drive, _ = waiting(shape)
    before = drive.state()
    for _ in range(3):
        drive.evict()
    assert drive.state() == before
    drive.unit.close_memory()


def test_a_call_on_a_dead_loop_never_completes_and_is_not_recorded() -> None:
    calls: list[Any] = []

    async def leaks_a_function() -> None:
        async def later() -> None:
            calls.append(asyncio.ensure_future(act("late")))

        calls.append(later)
        await act("x")

    drive = started(leaks_a_function)
    run = drive.unit.run
    assert run is not None
    dispose(run.loop)
    with Entered(run.loop):
        coroutine = calls[0]()
        with pytest.raises(StopIteration):
            coroutine.send(None)
    assert not calls[1].done()
    assert run.events == []
    assert run.loop.is_closed()


def test_terminate_runs_no_line() -> None:
    for shape in HOSTILE:
        drive, witness = waiting(shape)
        drive.tell(Terminate("enough"))
        assert drive.row.status == "cancelled"
        assert LOG == []
        assert type(drive.events()[-1]).__name__ == "Terminated"
        drive.unit.close_memory()
        assert not CAN_MARK or shape.__name__ in KNOTTED or witness() is None


def test_a_run_that_broke_is_dropped_as_well() -> None:
    """A mismatch stops the code where it is: its cleanup does not run."""
    drive, _ = waiting(HOSTILE[0])
    changed = App("changed")

    async def watched() -> None:
        try:
            await act.with_options(queue="elsewhere")("x")
        finally:
            LOG.append("cleanup of a broken run")

    changed.include(drive.app.__class__("none"))
    changed.workflow(watched)
    drive.app = changed
    drive.evict()
    assert drive.unit.held is not None
    assert drive.unit.held.type == "NondeterminismError"
    drive.unit.close_memory()
    assert LOG == []
