"""`ls --where` finds instances by their search attributes, and `show` shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from invocation import Cli

from perdure import Where
from perdure.cli.condition import parse_condition

ORDERS = """
from datetime import UTC, datetime
from perdure import App, workflow

app = App("orders")

@app.workflow
async def order(customer: str, total: float, tags: list[str]) -> None:
    due = datetime(2026, 1, int(total), tzinfo=UTC)
    workflow.set_attributes({"customer": customer, "total": total, "tags": tags, "due": due, "paid": False})
    workflow.set_attributes({"paid": True if total > 2 else None})
"""


@pytest.fixture
def store(cli: Cli, folder: Path) -> None:
    (folder / "orders.py").write_text(ORDERS)
    for number, (customer, tags) in enumerate(
        (("c1", '["new"]'), ("c2", "[]"), ("c1", '["new", "odd"]')), 1
    ):
        ran = cli(
            "run",
            "orders.py:order",
            f'["{customer}", {number}, {tags}]',
            "--id",
            f"order-{number}",
            "-q",
        )
        assert ran.code == 0


@pytest.mark.usefixtures("store")
def test_conditions_filter_lists(cli: Cli) -> None:
    for conditions, expected in (
        (["customer=c1"], ["order-3", "order-1"]),
        (["customer=c1", "total>=2"], ["order-3"]),
        (["customer!=c1"], ["order-2"]),
        (["total<1.5"], ["order-1"]),
        (['customer in ["c2", "c9"]'], ["order-2"]),
        (["tags=odd"], ["order-3"]),
        (["paid=true"], ["order-3"]),
        (["due>2026-01-01T12:00:00Z"], ["order-3", "order-2"]),
        (['customer="1"'], []),
    ):
        arguments = [part for condition in conditions for part in ("--where", condition)]
        found = cli("ls", "--json", *arguments).json["instances"]
        assert [one["id"] for one in found] == expected, conditions


@pytest.mark.usefixtures("store")
def test_they_are_shown(cli: Cli) -> None:
    assert cli("show", "order-3", "--json").json["attributes"] == {
        "customer": "c1",
        "due": "2026-01-03T00:00:00+00:00",
        "paid": True,
        "tags": ["new", "odd"],
        "total": 3.0,
    }
    assert '"customer":"c1"' in cli("show", "order-1").stdout
    changes = [
        event for event in cli("history", "order-1", "--json").json["events"] if "values" in event
    ]
    assert [event["values"] for event in changes][1:] == [{"paid": None}]
    assert cli("ls", "--where", "customer=nobody").stderr.startswith(
        "nothing fits these filters; there are 3"
    )


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("customer=c1", Where("customer", "=", "c1")),
        (" customer = c 1 ", Where("customer", "=", "c 1")),
        ("total>=100", Where("total", ">=", 100)),
        ("total<-1.5", Where("total", "<", -1.5)),
        ("paid!=true", Where("paid", "!=", True)),
        ('code="100"', Where("code", "=", "100")),
        ("name=", Where("name", "=", "")),
        ('name="="', Where("name", "=", "=")),
        ("index=1", Where("index", "=", 1)),
        ('customer in ["a","b"]', Where("customer", "in", ["a", "b"])),
        ("due<2026-01-01T00:00:00+00:00", Where("due", "<", datetime(2026, 1, 1, tzinfo=UTC))),
        ("day=2026-01-01", Where("day", "=", "2026-01-01")),
    ],
)
def test_a_condition_is_read(text: str, condition: Where) -> None:
    assert parse_condition(text) == condition
