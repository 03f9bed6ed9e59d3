"""Where no interceptor does anything, nothing is wrapped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from engine import World

import perdure
from perdure import App, Interceptor, Node
from perdure.interceptor import NextSend, Outgoing

PACKAGE = Path(perdure.__file__).parent


class Silent(Interceptor):
    """Overrides nothing."""


class ClientOnly(Interceptor):
    async def send(self, call: Outgoing, next: NextSend) -> object:
        return await next(call)


def stack() -> list[str]:
    """Functions of perdure on the stack, outermost first."""
    frame, names = sys._getframe(1), list[str]()
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            names.insert(0, frame.f_code.co_name)
        frame = frame.f_back
    return names


async def stacks(
    app: App, store: Any, interceptors: list[Interceptor]
) -> tuple[list[str], list[str]]:
    """What is on the stack below an activity, and below the workflow."""

    @app.activity
    async def below_activity() -> list[str]:
        return stack()

    @app.workflow
    async def below_workflow() -> list[list[str]]:
        own = stack()
        return [await below_activity(), own]

    async with Node(app, store, interceptors=interceptors) as node:
        in_activity, in_workflow = await node.client.workflow(
            below_workflow, id=f"x{len(interceptors)}"
        ).run()
    return in_activity, in_workflow


@pytest.mark.parametrize(
    "interceptors", [[], [Silent()], [ClientOnly()]], ids=["none", "silent", "client only"]
)
async def test_turns_and_activities_run_bare(
    world: World, app: App, interceptors: list[Interceptor]
) -> None:
    in_activity, in_workflow = await stacks(app, world.store, interceptors)
    assert in_activity == ["_run", "run", "_activity"]
    assert "_turn" in in_workflow
    assert not {"around_turn", "step", "turn", "<lambda>"} & set(in_workflow)


@pytest.mark.parametrize("interceptors", [[], [Silent()]], ids=["none", "silent"])
async def test_verbs_run_bare(
    app: App, monkeypatch: pytest.MonkeyPatch, interceptors: list[Interceptor]
) -> None:
    @app.workflow
    async def nothing() -> None:
        return None

    async with Node(app, "memory://", interceptors=interceptors) as node:
        seen: list[list[str]] = []
        send, begin = node.gateway.send, node.gateway.begin

        async def spy_on_send(message: Any) -> Any:
            seen.append(stack())
            return await send(message)

        async def spy_on_begin(message: Any) -> Any:
            seen.append(stack())
            return await begin(message)

        monkeypatch.setattr(node.gateway, "send", spy_on_send)
        monkeypatch.setattr(node.gateway, "begin", spy_on_begin)
        await node.client.workflow(nothing, id="x").start()
        await node.client.get("x").terminate()
        assert len(seen) == 2
        assert not {"around_send", "step", "innermost"} & {name for names in seen for name in names}
