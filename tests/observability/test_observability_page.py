"""docs/observability.md has every metric, every key of a record, and every area."""

from __future__ import annotations

import re
from pathlib import Path

from perdure.logs import AREAS, IDS
from perdure.node.telemetry.instruments import INSTRUMENTS
from perdure.node.telemetry.tally import NodeMetrics

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "observability.md").read_text(
    encoding="utf-8"
)


def test_every_metric_is_listed_as_it_is() -> None:
    rows = re.findall(
        r"^\| `(perdure\.[\w.]+)` \| (\w+) \| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$",
        TEXT,
        re.MULTILINE,
    )
    listed = [
        (name, kind, unit, tuple(re.findall(r"`(\w+)`", names)), text)
        for name, kind, unit, names, text in rows
    ]
    assert listed == [(i.name, i.kind, i.unit, i.attributes, i.text) for i in INSTRUMENTS]


def test_units_and_names_are_those_of_the_conventions() -> None:
    for instrument in INSTRUMENTS:
        assert re.fullmatch(r"perdure(\.[a-z_]+)+", instrument.name)
        assert instrument.unit == "s" or re.fullmatch(r"\{[a-z]+\}", instrument.unit)
        assert (instrument.kind == "histogram") == bool(instrument.buckets)
        assert list(instrument.buckets) == sorted(set(instrument.buckets))
    names = [instrument.name for instrument in INSTRUMENTS]
    assert len(set(names)) == len(names)


def test_every_key_of_a_record_and_every_area_is_listed() -> None:
    for word in (*IDS, "time", "level", "logger", "message", "extra", "exception", "stack", *AREAS):
        assert f"`{word}`" in TEXT, word


def test_every_plain_number_is_named() -> None:
    for name in NodeMetrics.__slots__:
        assert f"`{name}`" in TEXT, name
