"""The scan follows what a constructor runs: `__init__`, `__post_init__` and factories of fields."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel, Field

from perdure.guard.scan import scan


@dataclass
class Factory:
    id: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass
class Lambda:
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Inherited(Factory):
    pass


class Model(BaseModel):
    id: uuid.UUID = Field(default_factory=uuid.uuid4)


class Plain:
    def __init__(self) -> None:
        self.at = time.time()


@dataclass
class After:
    n: int = 1

    def __post_init__(self) -> None:
        self.at = time.time()


@pytest.mark.parametrize(
    ("owner", "code"),
    [
        (Factory, "PD103"),
        (Lambda, "PD103"),
        (Inherited, "PD103"),
        (Model, "PD103"),
        (Plain, "PD101"),
        (After, "PD101"),
    ],
)
def test_a_call_of_the_class_is_found(owner: Callable[[], object], code: str) -> None:
    async def flow() -> object:
        return owner()

    assert [finding.rule.code for finding in scan(flow)] == [code]


def test_a_class_that_is_only_named_is_no_finding() -> None:
    async def flow() -> object:
        return Factory, Model

    assert scan(flow) == []
