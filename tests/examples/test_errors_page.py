"""docs/errors.md has every error and every reason, is what the docstrings say, and its examples are real messages."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from operator import methodcaller
from pathlib import Path
from typing import Any, cast

import pytest

from perdure import App, ApplicationError, Client, Limits, NodeOptions, workflow
from perdure import errors as e
from perdure.cli.explaining import REASONS, error_classes, page
from perdure.codec import encode
from perdure.kernel.unit import held

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

app = App("shop")
approved = workflow.Channel[bool]("approved")


class Cart:
    """A plain class, which is not data."""


@app.activity
async def charge(cents: int) -> str:
    if cents < 0:
        raise ValueError("no card")
    return str(cents)


@app.activity(name="pack", timeout=0.01)
async def slow() -> None:
    await asyncio.Event().wait()


@app.activity
async def pay() -> None:
    raise ApplicationError("the card has expired", type="CardDeclined", retryable=False)


@app.workflow
async def checkout(cents: int) -> str:
    return await charge(cents)


@app.workflow
async def ship() -> None:
    raise ValueError("no address")


@app.workflow
async def parent() -> None:
    await workflow.child(checkout, id="part-1")(5)


@app.workflow
async def approval() -> bool:
    return await approved.receive()


@app.workflow
async def wrong(what: str) -> None:
    match what:
        case "activity":
            await charge(-1)
        case "timeout":
            await slow()
        case "application":
            await pay()
        case "child":
            await ship()
        case "file":
            methodcaller("open")(
                Path("prices.txt")
            )  # some Pythons see a call by the workflow's own line earlier
        case "kv":
            for number in range(200):
                workflow.kv.set(f"k{number}", number)
        case _:
            raise AssertionError


def example_of(name: str) -> str:
    """The example in a docstring."""
    text = inspect.getdoc(error_classes()[name]) or ""
    match = re.search(r"^- Example: (`+)(.*?)\1$", text, re.MULTILINE | re.DOTALL)
    return " ".join(match[2].split()) if match else ""


def same(shown: str, real: str) -> bool:
    """Whether a message is the one that is shown, which may be cut, and has other numbers and places."""

    def plain(text: str) -> str:
        text = re.sub(r"/\S+/(?=\w+\.(?:py|db|txt))", "", text)
        return re.sub(r"\w+\.py:\d+|[0-9a-f]{16}|(?<=/)[0-9a-f]{8}(?=\.)|\d+", "#", text)

    start, cut, _ = plain(shown).partition("...")
    return plain(real).startswith(start) if cut else plain(real) == start


def failing(what: str) -> Callable[[Client], Awaitable[object]]:
    async def run(client: Client) -> object:
        return await client.workflow(wrong, id="order-1").run(what)

    return run


async def define(client: Client) -> None:
    @App("other").workflow
    def checkout() -> None: ...


async def outside(client: Client) -> None:
    workflow.now()


async def started(client: Client) -> None:
    await client.workflow(approval, id="order-1").start()


async def delete(client: Client) -> None:
    await started(client)
    await client.get("order-1").delete()


async def delete_child(client: Client) -> None:
    await client.workflow(parent, id="order-1").run()
    await client.get("part-1").delete()


async def flood(client: Client) -> None:
    await started(client)
    for _ in range(4):
        await client.get("order-1").send("other", 1)


async def ended(client: Client) -> None:
    await client.workflow(checkout, id="order-1").run(5)
    await client.get("order-1").send(approved, True)


async def large(client: Client) -> None:
    await started(client)
    await client.get("order-1").send("approved", "x" * 3_000_000)


async def late(client: Client) -> None:
    await started(client)
    await client.get("order-1").result(timeout=0)


async def misfit(client: Client) -> None:
    await client.workflow(checkout, id="order-1").run(5)
    # As a sender that does not know the type.
    checkout.definition.signature.check(encode(["many"]))


async def taken(client: Client) -> None:
    await started(client)
    await client.workflow(approval, id="order-1", if_exists="reject").start()


async def cancelled(client: Client) -> None:
    await started(client)
    await client.get("order-1").cancel("out of stock")
    await client.get("order-1").result()


async def terminated(client: Client) -> None:
    await started(client)
    await client.get("order-1").terminate("stuck since Monday")
    await client.get("order-1").result()


async def twice(client: Client) -> None:
    async with app.node("sqlite:///shop.db"), app.node("sqlite:///shop.db"):
        raise AssertionError


async def nowhere(client: Client) -> None:
    async with app.node("sqlite:///nowhere/shop.db"):
        raise AssertionError


async def notes(client: Client) -> None:
    Path("notes.db").write_text("these are notes" * 100)
    async with app.node("sqlite:///notes.db"):
        raise AssertionError


PROVOKED: dict[str, Callable[[Client], Awaitable[object]]] = {
    "UsageError": outside,
    "DefinitionError": define,
    "EncodeError": lambda client: client.workflow(checkout, id="a").run(cast("Any", Cart())),
    "DecodeError": misfit,
    "PayloadTooLarge": large,
    "InvalidId": lambda client: client.get("").result(),
    "WorkflowViolation": failing("file"),
    "LimitExceeded": failing("kv"),
    "NotFound": lambda client: client.get("order-1").result(),
    "AlreadyStarted": taken,
    "NotRunning": ended,
    "StillRunning": delete,
    "HasParent": delete_child,
    "InboxFull": flood,
    "Timeout": late,
    "Suspended": lambda client: client.workflow("refund", id="order-1").run(),
    "WorkflowFailed": lambda client: client.workflow(checkout, id="order-1").run(-1),
    "WorkflowCancelled": cancelled,
    "WorkflowTerminated": terminated,
    "ActivityError": failing("activity"),
    "ActivityTimeout": failing("timeout"),
    "ChildError": failing("child"),
    "StoreUnavailable": nowhere,
    "StoreLocked": twice,
    "StoreFormat": notes,
}

UNPROVOKED = {
    "ApplicationError": "its example is the line that raises it",
    "RetryAfter": "so is this",
    "StoreMoved": "tests/cli/test_cli_moving.py has it in each command",
}


def real_message(error: BaseException, name: str) -> str:
    """The message of an error, or of the failure inside of it that is of this type."""
    if type(error).__name__ == name or not isinstance(error, e.Failed):
        return str(error)
    return error.failure.message


@pytest.mark.parametrize("name", PROVOKED)
async def test_an_example_is_a_real_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with app.node("memory://", options=NodeOptions(limits=Limits(inbox_messages=3))) as node:
        with pytest.raises(e.PerdureError) as raised:
            await PROVOKED[name](node.client)
    real = real_message(raised.value, name)
    assert name in (
        type(raised.value).__name__,
        getattr(getattr(raised.value, "failure", None), "type", ""),
    )
    assert same(example_of(name), real), f"{example_of(name)}\n{real}"


def test_every_example_is_provoked() -> None:
    assert {
        name for name in error_classes() if example_of(name)
    } == PROVOKED.keys() | UNPROVOKED.keys()


def test_the_page_is_what_the_docstrings_say() -> None:
    remedy = "run: python -m perdure.cli.explaining > docs/errors.md"
    assert page().strip() == TEXT.strip(), remedy


def test_every_error_and_every_reason_has_a_section() -> None:
    sections = set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE))
    assert sections == {*error_classes(), *REASONS}
    assert set(REASONS) == {"paused", *held.REASONS.values()}
    for name in error_classes():
        text = inspect.getdoc(error_classes()[name]) or ""
        assert "\n- Why: " in text, f"{name} does not say why it happens"
        assert "\n- Do: " in text, f"{name} does not say what to do"


@pytest.mark.parametrize("kind", error_classes().values(), ids=lambda kind: kind.__name__)
def test_an_error_knows_its_place_on_the_page(kind: type[e.PerdureError]) -> None:
    error = kind.__new__(kind)
    file, _, anchor = error.page.partition("#")
    assert (ROOT / "docs" / file).is_file()
    assert f"\n### {kind.__name__}\n" in TEXT
    assert anchor == kind.__name__.lower()


def test_an_error_of_ones_own_leads_to_the_class_that_it_derives_from() -> None:
    class CardDeclined(ApplicationError): ...

    assert CardDeclined("expired").page == "errors.md#applicationerror"
