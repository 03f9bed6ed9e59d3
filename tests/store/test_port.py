"""docs/store-authors.md says what the port is: each method, and how many they are."""

from __future__ import annotations

import re
from pathlib import Path

from perdure.ports.store import ClientStore, Store

PAGE = Path(__file__).parents[2] / "docs" / "store-authors.md"
NUMBERS = {
    19: "nineteen", 20: "twenty", 21: "twenty-one", 22: "twenty-two", 23: "twenty-three",
    24: "twenty-four", 25: "twenty-five", 26: "twenty-six",
}  # fmt: skip


def test_the_page_names_every_method_and_their_number() -> None:
    inherited = {"__init__", "__subclasshook__", "__init_subclass__", "__class_getitem__"}
    own = vars(ClientStore) | vars(Store)
    members = {name: value for name, value in own.items() if name not in inherited}
    methods = {name for name, value in members.items() if callable(value)}
    properties = {name for name, value in members.items() if isinstance(value, property)}
    text = PAGE.read_text("utf-8")
    table = text.partition("| Group |")[2].partition("\n\n")[0]
    named = {
        name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])
    }
    assert named == methods | properties
    assert f"{NUMBERS[len(methods)]} methods and one property" in text
    assert properties == {"info"}
