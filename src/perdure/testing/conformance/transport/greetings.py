"""Guarantee 5: both peers show that they belong together."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from typing import Any

from perdure.ports.transport import Refused, TransportOptions
from perdure.testing.conformance.transport.scene import (
    LONG_MS,
    Recorder,
    TransportFactory,
    error_of,
    peer,
)


async def _refused(
    factory: TransportFactory, one: dict[str, Any], two: dict[str, Any]
) -> tuple[Refused, Recorder]:
    """The error of a node that does not belong to the other, which then serves a third."""
    seen = Recorder()
    stranger = factory(**one)
    listening = factory(**two)
    beside: dict[str, Any] = two | {"me": peer("three", two["me"].store)}
    neighbour = factory(**beside)
    async with stranger, listening, neighbour:
        address = await listening.listen(seen)
        error = await error_of(stranger.connect(address))
        assert isinstance(error, Refused), error
        assert seen.links == []
        link = await neighbour.connect(address)
        assert await link.call("echo", b"welcome", LONG_MS) == b"welcome"
        assert [link.peer.node.node for link in seen.links] == ["three"]
    return error, seen


class Greetings:
    """Guarantee 5."""

    async def test_each_peer_sees_who_the_other_is(
        self, transport_factory: TransportFactory
    ) -> None:
        one = peer("one", "store-1", "scale", "zstd")
        two = peer("two", "store-1")
        seen = Recorder()
        connecting = transport_factory(one, b"token")
        listening = transport_factory(two, b"token")
        async with connecting, listening:
            link = await connecting.connect(await listening.listen(seen))
            await seen.until(lambda: bool(seen.links))
            assert link.peer == two
            assert seen.links[0].peer == one
            assert link.version == seen.links[0].version == 1
            assert link.address

    async def test_another_token_is_refused(self, transport_factory: TransportFactory) -> None:
        for token in (b"", b"other", b"token "):
            error, _ = await _refused(
                transport_factory,
                {"me": peer("one"), "token": token},
                {"me": peer("two"), "token": b"token"},
            )
            assert error.reason == "token"
            assert "token" in str(error)

    async def test_a_node_without_a_token_refuses_those_that_have_one(
        self, transport_factory: TransportFactory
    ) -> None:
        error, _ = await _refused(
            transport_factory, {"me": peer("one"), "token": b"token"}, {"me": peer("two")}
        )
        assert error.reason == "token"

    async def test_another_store_is_refused_and_both_are_named(
        self, transport_factory: TransportFactory
    ) -> None:
        error, _ = await _refused(
            transport_factory, {"me": peer("one", "store-1")}, {"me": peer("two", "store-2")}
        )
        assert error.reason == "store"
        assert "store-1" in str(error)
        assert "store-2" in str(error)

    async def test_the_store_is_told_only_to_those_that_know_the_token(
        self, transport_factory: TransportFactory
    ) -> None:
        error, _ = await _refused(
            transport_factory,
            {"me": peer("one", "store-1")},
            {"me": peer("two", "store-2"), "token": b"token"},
        )
        assert error.reason == "token"
        assert "store-2" not in str(error)

    async def test_versions_that_do_not_meet_are_refused(
        self, transport_factory: TransportFactory
    ) -> None:
        old, new = TransportOptions(versions=(1, 2)), TransportOptions(versions=(3, 4))
        for one, two in ((old, new), (new, old)):
            error, _ = await _refused(
                transport_factory,
                {"me": peer("one"), "options": one},
                {"me": peer("two"), "options": two},
            )
            assert error.reason == "version"
            assert "1 to 2" in str(error)
            assert "3 to 4" in str(error)

    async def test_the_newest_common_version_is_spoken(
        self, transport_factory: TransportFactory
    ) -> None:
        seen = Recorder()
        one = transport_factory(peer("one"), options=TransportOptions(versions=(1, 3)))
        two = transport_factory(peer("two"), options=TransportOptions(versions=(2, 5)))
        async with one, two:
            link = await one.connect(await two.listen(seen))
            await seen.until(lambda: bool(seen.links))
            assert link.version == seen.links[0].version == 3
