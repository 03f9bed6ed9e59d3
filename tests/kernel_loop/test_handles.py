"""What the loop gives back for a callback: a handle or a timer, which say what has become of it."""

from __future__ import annotations

import asyncio

from scene import result


def test_a_handle_says_whether_it_was_cancelled() -> None:
    async def scene() -> list[object]:
        loop, log = asyncio.get_running_loop(), list[object]()
        kept = loop.call_soon(log.append, "kept")
        given_up = loop.call_soon(log.append, "given up")
        given_up.cancel()
        log += [kept.cancelled(), given_up.cancelled()]
        await asyncio.sleep(0)
        return [*log, kept.cancelled()]

    assert result(scene) == [False, True, "kept", False]


def test_a_timer_says_when_it_fires_and_whether_it_is_still_to_come() -> None:
    async def scene() -> list[object]:
        loop, log = asyncio.get_running_loop(), list[object]()
        begun = loop.time()
        kept = loop.call_later(2, log.append, "kept")
        given_up = loop.call_later(1, log.append, "given up")
        given_up.cancel()
        given_up.cancel()  # that changes nothing
        log += [kept.when() - begun, kept.cancelled(), given_up.cancelled()]
        await asyncio.sleep(3)
        return [*log, kept.cancelled(), loop.time() - begun]

    assert result(scene) == [2.0, False, True, "kept", True, 3.0]


def test_what_is_due_now_needs_no_timer() -> None:
    async def scene() -> list[object]:
        loop, log = asyncio.get_running_loop(), list[object]()
        loop.call_at(loop.time(), log.append, "at once")
        loop.call_later(-1, log.append, "past")
        await asyncio.sleep(0)
        return log

    assert result(scene) == ["at once", "past"]
