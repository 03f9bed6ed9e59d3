"""The small HTTP server: what it answers, and what it does with clients that mean harm."""

from __future__ import annotations

import asyncio
import time

import pytest
from engine import until
from probes import Seen, ask, raw, seen

from perdure import App
from perdure.server import HealthPort, http
from perdure.transport.address import host_and_port


@pytest.fixture
async def address(app: App):
    async with HealthPort(app.node("memory://"), "127.0.0.1:0") as port:
        yield port.address


async def test_an_answer_is_a_json_document_and_ends_the_connection(address: str) -> None:
    answer = await ask(address, "/healthz?verbose=1")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.json["alive"] is True


async def test_head_has_the_head_of_get(address: str) -> None:
    got, head = await ask(address, "/healthz"), await ask(address, "/healthz", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", ["/", "/healthz/", "/HEALTHZ", "//healthz", "/nope"])
async def test_other_paths_are_not_found(address: str, path: str) -> None:
    answer = await ask(address, path)
    assert answer.status == 404
    assert "/healthz, /readyz" in answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "get, head"),
        ("DELETE", "/readyz", "get, head"),
        ("GET", "/drain", "post"),
        ("HEAD", "/drain", "post"),
        ("PUT", "/drain", "post"),
        ("OPTIONS", "/drain", "post"),
    ],
)
async def test_other_methods_are_refused(address: str, method: str, path: str, allow: str) -> None:
    answer = await ask(address, path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == allow


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
    b"GET\r\n\r\n",
    b"GET /healthz HTTQ/1.1\r\nhost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",  # no host
    b"GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n",
    b"GET /h\xffalthz HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /drain HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /drain HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    b"POST /drain HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /drain HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
]


@pytest.mark.parametrize("data", GARBAGE)
async def test_garbage_is_refused_with_an_answer(address: str, data: bytes) -> None:
    answer = seen(await raw(address, data))
    assert answer.status in (400, 501)
    assert answer.json["error"]
    assert (await ask(address, "/healthz")).status == 200


async def test_an_old_client_is_answered(address: str) -> None:
    assert seen(await raw(address, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200


async def test_a_head_that_is_too_long_is_refused(address: str) -> None:
    endless = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"y" * 1_000_000
    assert seen(await raw(address, endless)).status == 431
    many = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 10_000 + b"\r\n"
    assert seen(await raw(address, many)).status == 431


async def test_a_body_that_is_too_long_is_refused(address: str) -> None:
    head = b"POST /drain HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    assert seen(await raw(address, head + b"x" * 1_000_000)).status == 413


async def test_a_body_is_allowed_and_ignored(address: str) -> None:
    body = b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    assert seen(await raw(address, body)).status == 405


async def test_a_client_that_waits_to_be_told_to_go_on_gets_its_answer(address: str) -> None:
    head = b"POST /healthz HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    assert seen(await raw(address, head)).status == 405


async def test_a_client_that_sends_its_request_byte_by_byte_is_answered(address: str) -> None:
    reader, writer = await asyncio.open_connection(*host_and_port(address))
    for byte in b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert seen(await reader.read()).status == 200
    writer.transport.abort()


async def test_a_client_that_says_nothing_loses_its_connection(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "EXCHANGE_S", 0.05)
    began = time.monotonic()
    assert await raw(address, b"GET /healthz HT") == b""
    assert time.monotonic() - began < 5


async def test_a_client_that_goes_away_leaves_nothing_behind(address: str) -> None:
    _, writer = await asyncio.open_connection(*host_and_port(address))
    writer.write(b"GET /heal")
    writer.write_eof()
    assert (await ask(address, "/healthz")).status == 200
    writer.transport.abort()


async def test_a_thousand_silent_clients_keep_no_probe_out(address: str) -> None:
    silent = []
    try:
        for _ in range(1_000):
            silent.append(await asyncio.open_connection(*host_and_port(address)))
        answers = [await ask(address, "/healthz") for _ in range(20)]
        assert {answer.status for answer in answers} == {200}

        def closed() -> int:
            return sum(reader.at_eof() or reader.exception() is not None for reader, _ in silent)

        # Each probe was one of the hundred, and most have gone since.
        await until(lambda: closed() >= 1_000 - http.CONNECTIONS, "the end of the oldest")
        assert closed() <= 1_000 - http.CONNECTIONS + 20
    finally:
        for _, writer in silent:
            writer.transport.abort()


async def test_a_thousand_probes_at_once_are_answered(address: str) -> None:
    async def probe() -> Seen | None:
        try:
            return await ask(address, "/healthz")
        except (OSError, AssertionError, ValueError):
            return None  # it was the oldest of more than are answered at once

    answers = await asyncio.gather(*(probe() for _ in range(1_000)))
    answered = [answer for answer in answers if answer is not None]
    assert {answer.status for answer in answered} == {200}
    assert len(answered) >= http.CONNECTIONS
    assert (await ask(address, "/healthz")).status == 200
